"""Downloads from a server of this process."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mmkd.utils import downloads
from mmkd.utils.downloads import cached_path, download
from mmkd.utils.errors import ConfigError

KEY = 'model.members.a.checkpoint'


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve `files` (by path the content, or content and length said); `asked` are the requests."""
    monkeypatch.setattr(downloads, 'get_dir', lambda: str(tmp_path / 'hub'))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            http.asked.append(self.path)
            content = http.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            if content == 'silence':
                http.ended.wait(20)
                return
            content, length = content if isinstance(content, tuple) else (content, len(content))
            self.send_response(200)
            self.send_header('Content-Length', str(length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            """Stay silent."""

    http = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    http.files, http.asked, http.ended = {}, [], threading.Event()
    http.url = f'http://127.0.0.1:{http.server_port}'
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield http
    http.ended.set()
    http.shutdown()
    http.server_close()


def left(tmp_path):
    return [p.name for p in (tmp_path / 'hub').rglob('*') if p.is_file() and p.suffix != '.lock']


def test_two_urls_with_one_file_name_are_two_files(server):
    server.files.update({'/a/model.pth': b'one', '/b/model.pth': b'two', '/a/model.pth?v=2': b'3'})
    for _ in range(2):
        for path, content in server.files.items():
            assert download(server.url + path, KEY).read_bytes() == content
    assert len(server.asked) == 3, 'each is downloaded once'


def test_a_download_that_is_cut_is_not_kept(server, tmp_path):
    server.files['/model.pth'] = (b'half', 8)
    with pytest.raises(ConfigError, match=f'^{KEY}: cannot download .*model.pth'):
        download(f'{server.url}/model.pth', KEY)
    assert left(tmp_path) == []
    url = f'{server.url}/model.pth'
    killed = cached_path(url).with_name(f'.{cached_path(url).name}.abc')
    killed.mkdir()  # what a kill leaves
    (killed / 'download').write_bytes(b'ha')
    server.files['/model.pth'] = b'complete'
    assert download(url, KEY).read_bytes() == b'complete' and len(left(tmp_path)) == 1


def test_the_hash_in_a_name_is_checked(server, tmp_path):
    content = b'weights'
    good = f'/net_8xb8-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    server.files.update({good: content, '/net_8xb8-01234567.pth': content})
    assert download(server.url + good, KEY).read_bytes() == content
    with pytest.raises(ConfigError, match='its SHA-256 begins with'):
        download(f'{server.url}/net_8xb8-01234567.pth', KEY)
    assert len(left(tmp_path)) == 1


def test_a_server_that_says_nothing_and_a_file_that_is_not_there(server, monkeypatch, tmp_path):
    monkeypatch.setattr(downloads, 'TIMEOUT', 0.2)
    server.files['/slow.pth'] = 'silence'
    for name in ('slow.pth', 'none.pth'):
        with pytest.raises(ConfigError, match=f"^{KEY}: cannot download '{server.url}/{name}': "):
            download(f'{server.url}/{name}', KEY)
    assert left(tmp_path) == []


def test_a_url_without_file_name_has_a_place():
    assert cached_path('https://example.invalid/').name.endswith('-file')
