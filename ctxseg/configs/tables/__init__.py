"""The tables of the papers: `get_table(dataset)` → `ctxseg.studies.tables.Table`. The figures are the papers', as printed.

Some rows cannot be trained or evaluated here: those that start from weights trained on COCO, and those on test images whose labels are
kept on a server. They show the paper's figures only, and the table's note names the closest rows that run.

python main.py --config=configs/tables/zigzag_components.py --mode=sweep --seeds=3            on the paper's data, as the paper trains
python main.py --config=configs/tables/zigzag_components.py:scenes --mode=sweep --seeds=3     on the embedded data set
"""
