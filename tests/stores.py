"""Object stores on this machine, that can be slow and fail.

Google's is a small one of our own: those on PyPI ignore preconditions or lack
`rewriteTo`. Amazon's is moto.
"""

import contextlib
import email.parser
import email.policy
import hashlib
import json
import random
import re
import threading
import time
import urllib.parse

from werkzeug import serving
from werkzeug.wrappers import Request, Response

BUCKET = 'bucket'
KEYS = {'AWS_ACCESS_KEY_ID': 'test', 'AWS_SECRET_ACCESS_KEY': 'test'}


class Gcs:
  """Google Cloud Storage as its JSON API shows it, one bucket in memory.

  Attributes:
    objects: Name -> bytes and generation.
    sent: Bytes of objects that were asked for.
  """

  def __init__(self):
    self.objects: dict[str, tuple[bytes, int]] = {}
    self.uploads: dict[str, tuple[str, Request, bytearray]] = {}
    self.lock, self.generation, self.sent = threading.RLock(), 0, 0

  def __call__(self, environ, start_response):
    with self.lock:
      response = self.answer(Request(environ))
    return response(environ, start_response)

  def answer(self, request):
    path = urllib.parse.unquote(request.environ['RAW_URI'].partition('?')[0])
    path = re.sub(r'^(/upload|/download)?/storage/v1', '', path)
    name = path.removeprefix(f'/b/{BUCKET}/o').removeprefix('/')
    if path == f'/b/{BUCKET}':
      return said({'kind': 'storage#bucket', 'name': BUCKET, 'id': BUCKET})
    if not path.startswith(f'/b/{BUCKET}/o'):
      return said({'error': {'message': f'no bucket {path}'}}, 404)
    if 'uploadType' in request.args or 'upload_id' in request.args:
      return self.upload(request)
    if not name:
      return self.listing(request.args)
    if '/rewriteTo/' in name:
      source, _, target = name.partition('/rewriteTo/')
      if source not in self.objects:
        return said({'error': {'message': 'not there'}}, 404)
      target = target.removeprefix(f'b/{BUCKET}/o/')
      resource = self.put(target, self.objects[source][0])
      return said({'done': True, 'resource': resource})
    if wrong := self.unmet(name, request.args):
      return said({'error': {'message': 'precondition'}}, wrong)
    if name not in self.objects:
      return said({'error': {'message': f'no object {name}'}}, 404)
    if request.method == 'DELETE':
      del self.objects[name]
      return Response(status=204)
    if request.args.get('alt') != 'media':
      return said(self.about(name))
    return self.read(name, request.headers.get('Range', ''))

  def read(self, name, wanted):
    data, generation = self.objects[name]
    about = {
      'X-Goog-Generation': str(generation),
      'X-Goog-Stored-Content-Length': str(len(data)),
    }
    self.sent += 0 if wanted else len(data)
    if not wanted:
      return Response(data, 200, about)
    first, last = re.fullmatch(r'bytes=(\d*)-(\d*)', wanted).groups()
    end = len(data) if not last or not first else int(last) + 1
    start = int(first) if first else len(data) - int(last)
    if start >= len(data) > 0:
      return Response(status=416)
    part = data[start:end]
    self.sent += len(part)
    about['Content-Range'] = (
      f'bytes {start}-{start + len(part) - 1}/{len(data)}'
    )
    return Response(part, 206, about)

  def listing(self, args):
    prefix, found, folders = args.get('prefix', ''), [], set()
    for name in sorted(self.objects):
      rest = name.removeprefix(prefix)
      if not name.startswith(prefix) or name < args.get('startOffset', ''):
        continue
      if 'endOffset' in args and name >= args['endOffset']:
        continue
      if args.get('delimiter') and '/' in rest:
        folders.add(prefix + rest.partition('/')[0] + '/')
      else:
        found.append(self.about(name))
    # A page is short, so that whoever lists must ask for the next.
    start = int(args.get('pageToken', 0))
    size = min(7, int(args.get('maxResults', 7)))
    page = {'kind': 'storage#objects', 'prefixes': sorted(folders)}
    page['items'] = found[start : start + size]
    if start + size < len(found):
      page['nextPageToken'] = str(start + size)
    return said(page)

  def upload(self, request):
    kind, body = request.args.get('uploadType'), request.get_data()
    if 'upload_id' in request.args:
      return self.more(request.args['upload_id'], request, body)
    if kind == 'resumable':
      name = request.args.get('name') or json.loads(body)['name']
      upload_id = f'upload{len(self.uploads)}'
      self.uploads[upload_id] = name, request, bytearray()
      where = f'{request.host_url}upload/storage/v1/b/{BUCKET}/o'
      query = f'uploadType=resumable&upload_id={upload_id}'
      return Response(status=200, headers={'Location': f'{where}?{query}'})
    name, data = request.args.get('name'), body
    if kind == 'multipart':
      head = f'Content-Type: {request.headers["Content-Type"]}\r\n\r\n'
      parser = email.parser.BytesParser(policy=email.policy.HTTP)
      about, content = parser.parsebytes(head.encode() + body).iter_parts()
      name = json.loads(about.get_payload(decode=True))['name']
      data = content.get_payload(decode=True)
    if wrong := self.unmet(name, request.args):
      return said({'error': {'message': 'precondition'}}, wrong)
    return said(self.put(name, data))

  def more(self, upload_id, request, body):
    name, began, data = self.uploads[upload_id]
    span = request.headers.get('Content-Range', '')
    first, whole = re.fullmatch(
      r'bytes (\d+|\*)(?:-\d+)?/(\d+|\*)', span
    ).groups()
    if first != '*':
      data[int(first) :] = body
    if whole == '*' or len(data) < int(whole):
      done = {'Range': f'bytes=0-{len(data) - 1}'} if data else {}
      return Response(status=308, headers=done)
    if wrong := self.unmet(name, began.args):
      return said({'error': {'message': 'precondition'}}, wrong)
    return said(self.put(name, bytes(data)))

  def unmet(self, name, args):
    there = self.objects.get(name, (b'', 0))[1]
    match = args.get('ifGenerationMatch')
    other = args.get('ifGenerationNotMatch')
    if match is not None and int(match) != there:
      return 412
    return 304 if other is not None and int(other) == there else 0

  def put(self, name, data):
    self.generation += 1
    self.objects[name] = bytes(data), self.generation
    return self.about(name)

  def about(self, name):
    data, generation = self.objects[name]
    return {
      **{'kind': 'storage#object', 'name': name, 'bucket': BUCKET},
      **{'size': str(len(data)), 'generation': str(generation)},
      **{'id': f'{BUCKET}/{name}/{generation}', 'metageneration': '1'},
      'md5Hash': hashlib.md5(data).hexdigest(),
      'updated': '2026-01-01T00:00:00Z',
    }


def said(value, code=200):
  return Response(json.dumps(value), code, content_type='application/json')


class Faulty:
  """An application that is slow, and fails now and then.

  Every other failure has done what was asked, and only its answer is lost.
  """

  def __init__(self, app):
    self.app, self.delay, self.fail, self.failed = app, 0.0, 0.0, 0
    self.rng, self.asked = random.Random(0), 0

  def __call__(self, environ, start_response):
    self.asked += 1
    time.sleep(self.delay)
    draw = self.rng.random()
    if draw >= self.fail:
      return self.app(environ, start_response)
    self.failed += 1
    if draw < self.fail / 2:
      Response.from_app(self.app, environ)
    return Response('', 503)(environ, start_response)


class Quiet(serving.WSGIRequestHandler):
  protocol_version = 'HTTP/1.1'

  def log_request(self, *args):
    pass


@contextlib.contextmanager
def serving_at(app):
  """The address at which an application is served."""
  server = serving.make_server(
    '127.0.0.1', 0, app, threaded=True, request_handler=Quiet
  )
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  try:
    yield f'http://127.0.0.1:{server.port}'
  finally:
    server.shutdown()


def variables(scheme, url):
  """What tells libraries where a store is."""
  if scheme == 'gs':
    return {
      'STORAGE_EMULATOR_HOST': url,
      'TENSORSTORE_GCS_HTTP_URL': url,
      'TENSORSTORE_GCS_HTTP_VERSION': '1.1',
    }
  return KEYS | {'AWS_ENDPOINT_URL': url, 'AWS_REGION': 'us-east-1'}


def amazon():
  """S3 in memory, with a bucket."""
  from moto.server import DomainDispatcherApplication, create_backend_app

  app = DomainDispatcherApplication(create_backend_app)
  made = Request.from_values(f'/{BUCKET}', method='PUT').environ
  made['HTTP_HOST'] = 's3.amazonaws.com'
  Response.from_app(app, made)
  return app
