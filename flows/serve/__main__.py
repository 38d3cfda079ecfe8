"""`make serve MODEL=data/rl`: a model behind OpenAI's API, on this machine alone.

Any client of that API talks to it; who has not the key that is printed is not answered.
"""

import argparse
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

import uvicorn

from flows.serve.app import Served, app_of
from flows.servers.answers import names_of
from flows.servers.password import VARIABLE, PasswordError, take_password
from lm.checkpoint import device
from lm.model_folder import read_model

HOST = "127.0.0.1"
PORT = 8000
# Texts written at once. A step of the laptop preset's model takes 4.5 ms of a processor in 1 row, 5.5 in 8, 11.5 in 32.
ROWS = 8
# Of a model with a longer context, so that a cache of a few rows fits; --context says otherwise.
CONTEXT = 4096


def main() -> int:
    """The exit code: 0 after Ctrl-C or SIGTERM, 2 for a model, a port or a key that cannot be used."""
    parser = argparse.ArgumentParser(prog="tokenmill serve", description=__doc__)
    parser.add_argument("folder", type=Path, help="a model folder, ours (quantized too) or one of Hugging Face")
    parser.add_argument("--port", type=int, default=PORT, help="0: any free one")
    parser.add_argument("--rows", type=int, default=ROWS, help="texts that are written at once")
    parser.add_argument(
        "--context", type=int, default=CONTEXT, help="tokens of a prompt and its answer; at most the model's"
    )
    parser.add_argument("--name", default="", help="the model's name in the API; without it that of its folder")
    given = parser.parse_args()
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        serve(given.folder, given.port, given.rows, given.context, given.name)
    except (PasswordError, ValueError, OSError) as error:
        print(f"serve: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", flush=True)
    return 0


def serve(folder: Path, port: int, rows: int, context: int, name: str) -> None:
    """Serve a model until interrupted. Raises ValueError for numbers and folders that cannot be used, and OSError for a port
    that is taken."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port {port}: must be a port, or 0 for any free one")
    if rows < 1 or context < 2:
        raise ValueError(f"--rows {rows} --context {context}: must be at least 1 and 2")
    own, key = VARIABLE in os.environ, take_password()
    with listening(port) as door:
        model, tokenizer = read_model(folder)
        model.to(device())
        name = name or folder.resolve().name
        served = Served(name, model, tokenizer, rows, min(context, model.config.context))
        port = door.getsockname()[1]
        app = app_of(served, set(names_of(port)), key)
        print(banner(served, f"{model.num_parameters():,}", port, key, own), flush=True)
        # a stream that goes on must not keep it: who stops the server has been asked
        config = uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=1)
        uvicorn.Server(config).run([door])


def listening(port: int) -> socket.socket:
    """A socket of this machine's alone, at which clients may call from now on. Raises OSError naming the port that is taken."""
    door = socket.socket()
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind((HOST, port))
        door.listen(2048)
    except OSError as error:
        door.close()
        raise OSError(f"port {port}: {error.strerror}; --port 0 takes any free one") from None
    return door


def banner(served: Served, parameters: str, port: int, key: str | None, own: bool) -> str:
    """What is said once it can be called; a key that its owner has given is not shown."""
    shown = (
        f"nobody is asked for a key ({VARIABLE} is empty)" if key is None else f"the one of {VARIABLE}" if own else key
    )
    return f"""ready
  base URL   http://{HOST}:{port}/v1
  key        {shown}
  model      {served.name}    {parameters} parameters, {served.writer.context} tokens of a prompt and its answer
Ctrl-C stops it.
"""


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
