"""The tables of the papers: `get_table(dataset)` → `ctxseg.studies.tables.Table`. The figures are the papers', as printed.

Some rows cannot be trained or evaluated here: a server keeps the labels of their test images, or there is no code for the network.
They show only the paper's figures, and the table's note names the closest rows that can be run.

python main.py --config=configs/tables/zigzag_components.py --mode=sweep --seeds=3            on the paper's data, as the paper trains
python main.py --config=configs/tables/zigzag_components.py:scenes --mode=sweep --seeds=3     on the built-in data set
"""
