"""What runs a program inside of a sandbox: `python -c BOOT PROGRAM`, or `python -c BOOT PROGRAM PREFIX` where there are no
namespaces, which the hook of `fence` then stands in for as far as it can."""

import builtins
import os
import sys

# Names of audit events, or how they begin: https://docs.python.org/3/library/audit_events.html
REFUSED = (
    "socket.", "ctypes.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "os.kill", "pty.",
    "syslog.", "signal.pthread_kill", "resource.setrlimit", "resource.prlimit",
)  # fmt: skip
WRITES = (
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate",
    "os.utime", "os.setxattr", "os.removexattr", "shutil.",
)  # fmt: skip
READS = ("os.listdir", "os.scandir", "os.chdir", "os.walk", "glob.")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def fence(prefix):
    """Hook that refuses network, other processes, foreign code, and files beside those of the working folder and, to be read,
    those of the interpreter. It holds what a program does by Python's own functions and nothing that means to get round it."""
    own, real, join = os.getcwd(), os.path.realpath, os.path.join

    def check(event, paths, writing):
        for path in paths:
            place = real(os.fsdecode(path))
            allowed = [own] if writing else [own, prefix, "/dev/null", "/dev/urandom"]
            if not any(place == folder or place.startswith(join(folder, "")) for folder in allowed):
                raise PermissionError(f"{event}: {place} is outside of the sandbox")

    def hook(event, arguments):
        if event.startswith(REFUSED):
            raise PermissionError(f"{event}: not in a sandbox")
        paths = [each for each in arguments if isinstance(each, str | bytes)]
        if event == "open":
            if not isinstance(arguments[0], int):
                check(event, [arguments[0]], arguments[2] & WRITING)
        elif event.startswith(WRITES):
            check(event, paths, True)
        elif event.startswith(READS):
            check(event, paths, False)

    return hook


def main():
    path, *prefix = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        source = file.read()
    builtins.exit = builtins.quit = sys.exit  # which `site` makes, without which interpreters of a sandbox start
    sys.argv[:] = ["program.py"]
    if prefix:
        sys.addaudithook(fence(prefix[0]))
    exec(compile(source, "program.py", "exec"), {"__name__": "__main__", "__builtins__": builtins})


if __name__ == "__main__":
    main()
