"""The first process of a sandbox: it shuts itself in, has a program run, and ends all that the program has left.

    python -I -S launcher.py FOLDER STATUS

FOLDER holds request.json and program.py; on the file descriptor STATUS it writes lines: `ended WAIT_STATUS SECONDS`, `late`,
`left`, or `error WHY`. It imports nothing of ours, so that it starts in the 20 ms that an interpreter takes.

namespaces: the program sees a root folder of its own in memory, with the interpreter and the machine's /usr to read and /tmp to
write, no network, and no process but its own; the kernel ends all of these with the first one. bare: the same limits without
namespaces; what the program started is looked for and killed, and boot.py keeps it from what it has no business with.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
NOSUID, NODEV, BIND, REC, SLAVE = 2, 4, 4096, 16384, 1 << 19
DETACH, RECURSIVE = 2, 0x8000
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
SET_PDEATHSIG, SET_SUBREAPER, SET_NO_NEW_PRIVS = 1, 36, 38
MOUNT_SETATTR = 442  # of system calls, on every kind of machine
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}
VISIBLE = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
OWN_USERS = (
    0x60000000  # of root's sandboxes: a user for each, by the number of its process, whose processes can be counted
)
NOBODY = 65534  # where users are mapped and that one is not
OPEN_FILES, INODES = 64, 4096
SWEEP_SECONDS = 5.0
SURROUNDINGS = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}

libc = ctypes.CDLL(None, use_errno=True)
Request = dict[str, Any]


def call(name: str, *arguments: object) -> None:
    """Call libc. Raises OSError, naming the function."""
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    if getattr(libc, name)(*words) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount something. Raises OSError."""
    texts = [None if text is None else text.encode() for text in (source, target, kind, options or None)]
    call("mount", *texts[:3], flags, texts[3])


def read_only(target: str, flags: int = RECURSIVE) -> None:
    """Let nothing be written below a mount, nor privileges or devices be taken from it. Raises OSError."""
    attributes = (ctypes.c_uint64 * 4)(ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, 0, 0, 0)
    call("syscall", MOUNT_SETATTR, -1, target.encode(), flags, ctypes.byref(attributes), ctypes.sizeof(attributes))


def new_root(request: Request, program: str, user: int) -> None:
    """Move into a root folder in memory that has the interpreter, the program and an empty /tmp. Raises OSError."""
    root = request["folder"]
    mount(None, "/", None, REC | SLAVE)
    mount("tmpfs", root, "tmpfs", NOSUID | NODEV, f"size={len(program) * 4 + (1 << 20)},nr_inodes={INODES},mode=755")
    for path in dict.fromkeys([*VISIBLE, request["prefix"], *DEVICES]):
        bind_mount(path, root)
    if os.path.isdir(hidden := root + request["hidden"]):
        mount("tmpfs", hidden, "tmpfs", NOSUID | NODEV, "size=4096,nr_inodes=2,mode=000")
        read_only(hidden, 0)
    os.mkdir(f"{root}/tmp")
    own = f"size={request['files']},nr_inodes={INODES},mode=700,uid={user},gid={user}"
    mount("tmpfs", f"{root}/tmp", "tmpfs", NOSUID | NODEV, own)
    Path(root, "program.py").write_text(program, encoding="utf-8")
    read_only(root, 0)
    os.chdir(root)
    call("syscall", PIVOT_ROOT[os.uname().machine], b".", b".")
    call("umount2", b".", DETACH)
    os.chdir("/tmp")


def bind_mount(path: str, root: str) -> None:
    """Have what stands at a path stand there under the new root, too: not to be written, unless it is a device."""
    target = root + path
    if not os.path.lexists(path) or os.path.lexists(target):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        return os.symlink(os.readlink(path), target)
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        Path(target).touch()
    mount(path, target, None, BIND | REC)
    if path not in DEVICES:
        read_only(target)


def own_user() -> int:
    """Number of the user that the program is run as: its own, where that is not root's."""
    if os.getuid():
        return os.getuid()
    mapped = Path("/proc/self/uid_map").read_text().split()
    own = OWN_USERS + os.getpid()
    return own if int(mapped[0]) <= own < int(mapped[0]) + int(mapped[2]) else NOBODY


def leave_machine() -> None:
    """Enter namespaces of the process's own; for a user who is not root that takes one in which it may. Raises OSError."""
    user, group = os.getuid(), os.getgid()
    call("unshare", NEWNS | NEWPID | NEWNET | NEWIPC | (NEWUSER if user else 0))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def limit(request: Request, others: int) -> None:
    """Limit this process and what it becomes. others: processes that count with it."""
    limits = {
        resource.RLIMIT_CPU: request["cpu_seconds"],
        resource.RLIMIT_AS: request["memory"],
        resource.RLIMIT_FSIZE: request["files"],
        resource.RLIMIT_NPROC: request["processes"] + others,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for which, value in limits.items():
        hard = resource.getrlimit(which)[1]
        most = value + (which == resource.RLIMIT_CPU)  # SIGXCPU at the first, SIGKILL at the second
        value, most = (number if hard == resource.RLIM_INFINITY else min(number, hard) for number in (value, most))
        resource.setrlimit(which, (value, most))


def become(request: Request, others: int, user: int, boot: str, names: list[str]) -> NoReturn:
    """Become the program: another user where this one is root, without a right, within limits, with nothing on stdin."""
    if not os.getuid():
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    call("prctl", SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a change of user has undone it
    call("prctl", SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGPIPE, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    limit(request, others)
    surroundings = SURROUNDINGS | {"HOME": os.getcwd(), "TMPDIR": os.getcwd()}
    if "LD_LIBRARY_PATH" in os.environ:
        surroundings["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    os.execve(request["python"], [request["python"], "-s", "-S", "-B", "-X", "utf8", "-c", boot, *names], surroundings)


def fork_child(work: Callable[[], object], status: int) -> int:
    """Number of a child process that does the work; what it raises is said on the status."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException as error:
            os.write(status, f"error {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(1)
    return child


def report_exit(child: int, status: int) -> bool:
    """Whether a process that has ended was the child, whose end is then said."""
    pid, wait_status, used = os.wait4(-1, 0)
    if pid == child:
        os.write(status, f"ended {wait_status} {used.ru_utime + used.ru_stime:.3f}\n".encode())
    return pid == child


def first_process(program: Callable[[], object], status: int) -> None:
    """Be the first process of a namespace, with which the kernel ends all others: start the program and wait for its end."""
    call("prctl", SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    child = fork_child(program, status)
    while not report_exit(child, status):
        pass


def descendants(pid: int) -> list[int]:
    """All processes that a process has started, those of these included."""
    children: dict[int, list[int]] = {}
    for folder in os.listdir("/proc"):
        with suppress(OSError, ValueError):
            parent = Path(f"/proc/{int(folder)}/stat").read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(folder))
    found, waiting = list[int](), [pid]
    while waiting:
        new = children.get(waiting.pop(), [])
        found += new
        waiting += new
    return found


def sweep() -> bool:
    """Kill all that was started below this process, of which orphans are children: it is their subreaper. Whether none is
    left."""
    end = time.monotonic() + SWEEP_SECONDS
    while time.monotonic() < end:
        for pid in descendants(os.getpid()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return True
        time.sleep(0.001)
    return False


def tasks_of(user: int) -> int:
    """Number of processes and threads of a user, which the kernel counts together."""
    count = 0
    for folder in os.listdir("/proc"):
        with suppress(OSError, ValueError):
            if os.stat(f"/proc/{int(folder)}").st_uid == user:
                count += len(os.listdir(f"/proc/{int(folder)}/task"))
    return count


def in_namespaces(request: Request, program: str, status: int) -> int:
    """Number of the first process of namespaces in which the program runs. Raises OSError where there can be none."""
    user = own_user()
    leave_machine()
    new_root(request, program, user)
    others = 2 if os.getuid() else 0  # this process and the first one of the namespace
    return fork_child(
        lambda: first_process(lambda: become(request, others, user, request["boot"], ["/program.py"]), status), status
    )


def in_the_open(request: Request, status: int) -> int:
    """Number of the process that becomes the program, in a folder on disk and without namespaces. Raises OSError."""
    folder, user = Path(request["folder"]), own_user()
    others = tasks_of(user) if os.getuid() else 0
    call("prctl", SET_SUBREAPER, 1, 0, 0, 0)
    (folder / "work").mkdir(mode=0o700)
    if not os.getuid():
        os.chown(folder / "work", user, user)
        folder.chmod(0o711)
    os.chdir(folder / "work")
    names = [str(folder / "program.py"), request["prefix"]]
    return fork_child(lambda: become(request, others, user, request["boot"], names), status)


def main() -> None:
    folder, status = Path(sys.argv[1]), int(sys.argv[2])
    os.umask(0o022)
    os.set_inheritable(status, False)
    call("prctl", SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    request = json.loads((folder / "request.json").read_text())
    if os.getppid() != request["parent"]:
        return
    child, reaped = 0, False

    def stop(number: int, _: object) -> None:
        if number == signal.SIGALRM:
            os.write(status, b"late\n")
        if child and not reaped:
            os.kill(child, signal.SIGKILL)

    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, it is the sandbox that goes
    try:
        program = (folder / "program.py").read_text(encoding="utf-8")
        bare = request["mode"] == "bare"
        child = in_the_open(request, status) if bare else in_namespaces(request, program, status)
        for signum in (signal.SIGALRM, signal.SIGTERM):
            signal.signal(signum, stop)
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        if bare:
            while not report_exit(child, status):
                pass
        else:
            os.waitpid(child, 0)
        reaped = True
        if bare and not sweep():
            os.write(status, b"left\n")
    except OSError as error:
        os.write(status, f"error {error.strerror or error}\n".encode())


if __name__ == "__main__":
    main()
