"What is fetched is what was published, however often the line breaks; a server cannot write where it likes."
import hashlib, json, re, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from drgnbook.empiar import Remote, fetch, fetch_file, zenodo
from drgnbook.standin import CS, STACK, STAR


@pytest.fixture
def web(monkeypatch):
    "A server of `web.files` that notes what it was asked, and does what `web` says: breaks off after `most` bytes, knows no ranges, answers with `status`"
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            x, web = web_.files.get(self.path), web_
            web.asked.append(self.headers.get('Range', ''))
            if x is None or web.status != 200: return self.send_error(web.status if x is not None else 404)
            ask = web.ranges and self.headers.get('If-Range') == web.tag and re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', ''))
            at = int(ask[1]) if ask else 0
            self.send_response(206 if ask else 200)
            if ask: self.send_header('Content-Range', web.lie or f'bytes {at}-{len(x) - 1}/{len(x)}')
            if web.length: self.send_header('Content-Length', str(len(x) - at))
            if web.tag: self.send_header(web.tag_name, web.tag)
            self.end_headers()
            self.wfile.write((x[at:] + web.more)[:web.most])
        def log_message(self, *a): pass
    web_ = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    web_.files, web_.asked, web_.most, web_.ranges, web_.tag, web_.tag_name, web_.length, web_.status, web_.lie, web_.more = {}, [], 10**9, True, '"v1"', 'ETag', True, 200, '', b''
    web_.handle_error = lambda *who: None            # a client that has heard enough hangs up
    web_.url = f'http://127.0.0.1:{web_.server_port}'
    thread = threading.Thread(target=web_.serve_forever, daemon=True)
    thread.start()
    yield web_
    web_.shutdown(); web_.server_close(); thread.join()

X = np.random.default_rng(0).bytes(3_000_000)
SUM = 'sha256:' + hashlib.sha256(X).hexdigest()

@pytest.fixture
def stack(web):
    web.files['/x'] = X
    return Remote(f'{web.url}/x', 'x.mrc', len(X), SUM)


@pytest.mark.parametrize('tag_name', ['ETag', 'Last-Modified'])
def test_goes_on(web, stack, tag_name, tmp_path):
    "Three answers make one file, and none is asked for what is here"
    web.most, web.tag_name = 1_100_000, tag_name
    assert fetch_file(stack, tmp_path).read_bytes() == X
    assert web.asked == ['', 'bytes=1100000-', 'bytes=2200000-'] and [p.name for p in tmp_path.iterdir()] == ['x.mrc']
    fetch_file(stack, tmp_path)
    assert len(web.asked) == 3

def test_goes_on_in_another_call(web, stack, tmp_path):
    "What has come is kept, under another name"
    web.most = 1_100_000
    with pytest.raises(ConnectionError, match=r'broke off 1 times.*x\.mrc\.part is kept'): fetch_file(stack, tmp_path, tries=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['x.mrc.part', 'x.mrc.part.json'] and (tmp_path/'x.mrc.part').read_bytes() == X[:1_100_000]
    web.most = 10**9
    assert fetch_file(stack, tmp_path).read_bytes() == X and web.asked == ['', 'bytes=1100000-']

@pytest.mark.parametrize('change', [dict(ranges=False), dict(tag='"v2"'), dict(tag='')], ids=['no ranges', 'another version', 'no mark'])
def test_begins_again(web, stack, change, tmp_path):
    "Half of one version and half of another would be neither"
    web.most = 1_100_000
    with pytest.raises(ConnectionError): fetch_file(stack, tmp_path, tries=1)
    web.most, web.files['/x'] = 10**9, X[::-1]
    vars(web).update(change)
    if change == dict(tag=''): (tmp_path/'x.mrc.part.json').write_text(f'{{"size": {len(X)}, "tag": ""}}')
    assert fetch_file(Remote(f'{web.url}/x', 'x.mrc'), tmp_path).read_bytes() == X[::-1]

def test_whole_but_not_named(web, stack, tmp_path):
    "Stopped between the last byte and the name: nobody is asked again"
    (tmp_path/'x.mrc.part').write_bytes(X)
    (tmp_path/'x.mrc.part.json').write_text(f'{{"size": {len(X)}, "tag": ""}}')
    assert fetch_file(stack, tmp_path).read_bytes() == X and web.asked == []

def test_not_what_was_published(web, stack, tmp_path):
    "One byte is enough; the file does not get its name"
    web.files['/x'] = X[:-1] + bytes([X[-1] ^ 1])
    with pytest.raises(ValueError, match=f'not what was published: its sha256 is .*should be {SUM[7:]}'): fetch_file(stack, tmp_path)
    assert not (tmp_path/'x.mrc').exists()
    (tmp_path/'x.mrc').write_bytes(X[:5])            # nor is one believed that was here before
    with pytest.raises(ValueError, match='has 5 bytes, 3,000,000 were announced'): fetch_file(stack, tmp_path)

def test_no_more_than_announced(web, stack, tmp_path):
    "A server that sends on is not listened to; one that announces another size, none, or more than the disk holds, is refused"
    web.more = b'more'*1000
    assert fetch_file(stack, tmp_path/'a').stat().st_size == len(X)
    with pytest.raises(ValueError, match='sends 3,000,000 bytes, 7 were announced'): fetch_file(Remote(stack.url, 'y', 7), tmp_path)
    web.length = False
    with pytest.raises(ValueError, match='does not say how large'): fetch_file(stack, tmp_path)
    assert not (tmp_path/'x.mrc.part').exists()

def test_disk(web, stack, tmp_path, monkeypatch):
    monkeypatch.setattr('drgnbook.empiar.shutil.disk_usage', lambda p: type('Disk', (), dict(free=2_999_999)))
    with pytest.raises(OSError, match=r'x\.mrc needs 0\.0 GB'): fetch_file(stack, tmp_path)
    assert not list(tmp_path.iterdir())

def test_wrong_place(web, stack, tmp_path):
    web.most, web.lie = 1_100_000, f'bytes 5-{len(X) - 1}/{len(X)}'
    with pytest.raises(ValueError, match='asked for bytes from 1,100,000 and sends those from 5'): fetch_file(stack, tmp_path)

@pytest.mark.parametrize('status, error, asked', [(403, FileNotFoundError, 1), (503, ConnectionError, 3)])
def test_refused(web, stack, status, error, asked, tmp_path):
    "No is an answer; busy is not"
    web.status = status
    with pytest.raises(error, match=str(status)): fetch_file(stack, tmp_path, tries=3)
    assert len(web.asked) == asked

def test_nobody_there(web, tmp_path):
    url = web.url
    web.server_close()
    with pytest.raises(ConnectionError, match='broke off 2 times'): fetch_file(Remote(f'{url}/x', 'x'), tmp_path, tries=2)

@pytest.mark.parametrize('name', ['../x', '/etc/x', 'a/b', '..', '.', '', 'a\\b', 'a\0b'])
def test_names_stay_in_the_folder(name, web):
    with pytest.raises(ValueError, match='not the name of a file'): Remote('https://here/x', name)
    web.files['/api/records/1'] = json.dumps(dict(files=[dict(key=name, size=1, checksum='md5:' + '0'*32)])).encode()
    with pytest.raises(ValueError, match='not the name of a file'): zenodo(1, server=web.url)

@pytest.mark.parametrize('url', ['file:///etc/passwd', 'ftp://here/x', '/etc/passwd'])
def test_addresses_are_of_the_web(url):
    with pytest.raises(ValueError, match='no http'): Remote(url, 'x')

def test_entry(web, tmp_path):
    "What the walk needs, and nothing is fetched twice"
    web.files |= {f'/10076/data/{STACK}': X, f'/10076/data/{STAR}': b'data_', '/p': b'poses'}
    for _ in range(2): assert fetch(10076, tmp_path, server=web.url, poses=f'{web.url}/p', checksums={STACK: SUM}) == tmp_path
    assert {p.name: p.stat().st_size for p in tmp_path.iterdir()} == {STACK: len(X), STAR: 5, CS: 5} and len(web.asked) == 3
    with pytest.raises(ValueError, match='name the files of entry 10180'): fetch(10180, tmp_path)
