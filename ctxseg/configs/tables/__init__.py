"""The tables of the papers: `get_table(dataset)` → `ctxseg.studies.tables.Table`. The figures are the papers', as printed. Where
training or evaluation cannot be had here, as of rows that a paper sets apart by weights learned on COCO, or of images whose labels a test
server keeps, they stand alone, and the note says what comes nearest.

python main.py --config=configs/tables/zigzag_components.py --mode=sweep --seeds=3            on the paper's data, as the paper trains
python main.py --config=configs/tables/zigzag_components.py:scenes --mode=sweep --seeds=3     on the embedded data set
"""
