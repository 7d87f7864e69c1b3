"""A camera for tests: a stream of JPEGs over HTTP on this machine, as network cameras send it."""

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2


@contextmanager
def stream(images, endless=False):
    """Serve BGR images to each that connects; give the address and the list of what was sent."""
    parts = [cv2.imencode('.jpg', image)[1].tobytes() for image in images]
    sent = []

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header('Content-Type', 'multipart/x-mixed-replace; boundary=picture')
            self.end_headers()
            try:
                self.send_pictures()
                while endless:
                    self.send_pictures()
            except ConnectionError:
                pass  # the other side has seen enough

        def send_pictures(self):
            for part in parts:
                head = (
                    f'--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(part)}\r\n\r\n'
                )
                self.wfile.write(head.encode() + part + b'\r\n')
                sent.append(part)
                time.sleep(0.01)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Camera)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f'http://127.0.0.1:{server.server_port}/', sent
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
