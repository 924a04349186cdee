"""The tables of the papers: `get_table(dataset)` → `ctxseg.tables.Table`. The figures are the papers', as printed.

python main.py --config=configs/tables/zigzag_components.py --mode=sweep --seeds=3            on the paper's data, as the paper trains
python main.py --config=configs/tables/zigzag_components.py:scenes --mode=sweep --seeds=3     on the embedded data set
"""
