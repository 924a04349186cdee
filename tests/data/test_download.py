import errno
import hashlib
import http.server
import io
import re
import socket
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from ctxseg import data
from ctxseg.data import DATASETS, download
from ctxseg.data.builders import camvid
from ctxseg.data.download import Archive, Download
from ctxseg.errors import UserError


class Host(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`. The first answers to a path in `server.cut` stop after that many bytes."""

    def do_GET(self):
        server, content = self.server, self.server.files.get(self.path)
        server.requests.append((self.path, self.headers["Range"]))
        if content is None:
            return self.send_error(404)
        start = 0
        if self.headers["Range"] and server.resumes:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cuts = server.cut.get(self.path)
        self.wfile.write(content[start : cuts.pop(0) if cuts else None])

    def log_message(self, *args):
        pass


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0)
    monkeypatch.setattr(download, "CHUNK", 64)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host) as server:
        server.files, server.cut, server.requests, server.resumes = {}, {}, [], True
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def zipped(files):
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files, mode="w:gz"):
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_archives_are_downloaded_once_and_unpacked_side_by_side(host, tmp_path):
    host.files = {
        "/a.zip": zipped({"top/a.txt": b"a"}),
        "/b.tgz": tarred({"b.txt": b"b"}),
        "/c.tar": tarred({"c.txt": b"c"}, "w"),
        "/d.mat": b"d",
    }
    into = {"/b.tgz": "top/below"}
    archives = [
        Archive(host.url + path, f"sha256:{hashlib.sha256(content).hexdigest()}", into.get(path, "."))
        for path, content in host.files.items()
    ]
    for _ in range(2):
        root = download.fetch(Download("x", archives, "top"), tmp_path)
        assert root == tmp_path / "files/top"
        assert contents(root) == {"a.txt": b"a", "below/b.txt": b"b"}
        assert contents(tmp_path).keys() == {f"files/{p}" for p in ("top/a.txt", "top/below/b.txt", "c.txt", "d.mat")}
        assert len(host.requests) == 4


@pytest.mark.parametrize("resumes", [True, False])
def test_a_broken_transfer_is_resumed(resumes, host, tmp_path):
    content = np.random.default_rng(0).bytes(1000)
    host.files, host.cut, host.resumes = {"/x.bin": content}, {"/x.bin": [300, 500]}, resumes
    source = Download("x", [Archive(f"{host.url}/x.bin", f"md5:{hashlib.md5(content).hexdigest()}")])
    assert contents(download.fetch(source, tmp_path)) == {"x.bin": content}
    assert [ranges for _, ranges in host.requests] == [None, "bytes=300-", "bytes=500-"]


def test_a_later_run_resumes_a_failed_download(host, tmp_path):
    content = bytes(range(250))
    host.files, host.cut = {"/x.bin": content}, {"/x.bin": [100] * download.TRIES}
    source = Download("x", [Archive(f"{host.url}/x.bin")])
    with pytest.raises(UserError, match=r"/x.bin: .* 100 of 250 bytes; run .* again"):
        download.fetch(source, tmp_path)
    assert contents(tmp_path) == {"x.bin.part": content[:100]}
    (tmp_path / "x.bin.part").write_bytes(content)  # complete, but not yet renamed
    assert contents(download.fetch(source, tmp_path)) == {"x.bin": content}
    assert host.requests[-1] == ("/x.bin", "bytes=250-")


def free_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


FAULTS = {
    "missing": ({}, None, r"/x.zip: .*404 Not Found$"),
    "other bytes": ({"/x.zip": b"1"}, "md5:0f", r"/x.zip: .*md5 0f.* c4ca\w+.*deleted"),
    "damaged": ({"/x.zip": zipped({"a": b"a" * 99})[:80]}, None, r"/x.zip: cannot unpack .*deleted.*zip"),
    "error page": ({"/x.zip": b"<html>"}, None, r"/x.zip: cannot unpack .*deleted"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_reported_and_leave_no_files(fault, host, tmp_path):
    host.files, checksum, message = FAULTS[fault]
    with pytest.raises(UserError, match=message) as raised:
        download.fetch(Download("x", [Archive(f"{host.url}/x.zip", checksum)]), tmp_path)
    assert str(raised.value).startswith(host.url) and "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_no_network_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "PAUSE", 0)
    with pytest.raises(UserError, match=r"/x.zip: \[Errno \d+\] Connection refused; run .* again"):
        download.fetch(Download("x", [Archive(f"http://127.0.0.1:{free_port()}/x.zip")]), tmp_path)


def test_nothing_is_written_outside(host, tmp_path):
    host.files = {"/x.tar": tarred({"../out.txt": b"x"}, "w"), "/x.zip": zipped({"../out.txt": b"x", "in.txt": b"y"})}
    with pytest.raises(UserError, match=r"/x.tar: cannot unpack .*deleted.*out.txt"):
        download.fetch(Download("x", [Archive(f"{host.url}/x.tar")]), tmp_path)
    assert contents(download.fetch(Download("x", [Archive(f"{host.url}/x.zip")]), tmp_path)) == {"in.txt": b"y"}
    assert not list(tmp_path.rglob("out.txt"))


def test_free_space_is_checked_before_downloading(host, tmp_path, monkeypatch):
    host.files = {"/x.bin": bytes(1000)}
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 999}))
    with pytest.raises(OSError, match="0.0 GB of http") as raised:
        download.fetch(Download("x", [Archive(f"{host.url}/x.bin")]), tmp_path)
    assert raised.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())


def test_a_data_set_is_downloaded_only_on_request(street, host, tmp_path, monkeypatch):
    files = {f"top/CamVid/{name}": content for name, content in contents(street).items()}
    source = Download("camvid", [Archive(f"{host.url}/camvid.zip")], root="top/CamVid")
    monkeypatch.setattr(camvid.CamVid, "downloads", source)
    message = (
        rf"^config.data.manual_dir .*no camvid is prepared in {tmp_path}; downloading failed: "
        r"http\S*/camvid.zip: .*404 Not Found; .*SegNet's CamVid folder: "
    )
    with pytest.raises(UserError, match=message) as raised:
        data.load("camvid", tmp_path, download=True)
    assert "\n" not in str(raised.value)
    count = len(host.requests)
    with pytest.raises(UserError, match="--mode=prepare"):
        data.load("camvid", tmp_path)
    assert len(host.requests) == count

    host.files = {"/camvid.zip": zipped(files)}
    builder = data.load("camvid", tmp_path, download=True)
    assert builder.info.splits["train"].num_examples == 6
    count = len(host.requests)
    assert data.load("camvid", tmp_path).data_dir == builder.data_dir
    with Image.open(next((tmp_path / "downloads/camvid/files/top/CamVid/train").iterdir())) as file:
        assert file.size == (32, 32)
    assert len(host.requests) == count  # the prepared one is used


def test_downloads_of_data_sets_are_valid():
    sources = {name: cls.downloads for name, cls in DATASETS.items() if getattr(cls, "downloads", None)}
    folders = {}
    for name, source in sources.items():
        assert folders.setdefault(source.name, source) == source, f"{name} shares a folder with another data set"
        for url, checksum, into in source.archives:
            assert re.fullmatch(r"https?://\S+/[\w.-]+", url)
            if checksum:
                algorithm, digest = checksum.split(":")
                assert len(bytes.fromhex(digest)) == hashlib.new(algorithm).digest_size
            assert not into.startswith(("/", ".."))
