import json

import numpy as np
import pytest

from ctxseg import files


def test_write_json_is_atomic(tmp_path):
    path = tmp_path / "results.json"
    files.write_json(path, {"mIoU": np.float64("nan"), "palette": np.array([[1, 2, 3]]), "crop": (2, 3)})
    assert json.loads(path.read_text()) == {"mIoU": None, "palette": [[1, 2, 3]], "crop": [2, 3]}
    with pytest.raises(TypeError):
        files.write_json(path, {"mIoU": object()})
    assert json.loads(path.read_text())["mIoU"] is None and list(tmp_path.iterdir()) == [path]
