"""One container of one runtime: its bundle, its configuration, and the verbs of the command line.

A case (cases.py) gets a Container, changes `config`, runs it, and returns what it saw as a dictionary of facts. What a case
makes on the host through `undo` is removed again, whatever happens.
"""
import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import time

# Docker's default set.
CAPS = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
        "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"]

APPLETS = ["sh", "cat", "ls", "sleep", "true", "false", "touch", "mkdir", "stat", "kill", "rm", "readlink", "dd", "mknod", "head",
           "chmod", "wc", "mount", "env", "nproc"]

CONFIG = {
    "ociVersion": "1.0.2",
    "root": {"path": "rootfs"},
    "process": {
        "args": ["/bin/facts"],
        "cwd": "/",
        "env": ["PATH=/bin", "HOME=/root"],
        "user": {"uid": 0, "gid": 0},
        "capabilities": {"bounding": CAPS, "effective": CAPS, "permitted": CAPS},
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    ],
    "linux": {
        "namespaces": [{"type": t} for t in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
    },
}


class Refused(Exception):
    """The runtime ended with an error: `code` and what it said."""

    def __init__(self, code, text):
        super().__init__(f"exit {code}: {text}")
        self.code, self.text = code, text


class Container:
    number = 0

    def __init__(self, runtime, program, scratch, view):
        Container.number += 1
        self.runtime, self.program, self.view = runtime, program, view
        self.id = f"c{os.getpid()}x{Container.number}"
        self.bundle = os.path.join(scratch, self.id)
        self.state_dir = os.path.join(scratch, "state-" + runtime)
        self.rootfs = os.path.join(self.bundle, "rootfs")
        self.config = copy.deepcopy(CONFIG)
        self.undo = []
        for d in ("bin", "proc", "sys", "dev", "etc", "tmp", "root"):
            os.makedirs(os.path.join(self.rootfs, d))
        os.link(os.path.join(scratch, "facts"), os.path.join(self.rootfs, "bin/facts"))
        os.link(os.path.join(scratch, "busybox"), os.path.join(self.rootfs, "bin/busybox"))
        for applet in APPLETS:
            os.symlink("busybox", os.path.join(self.rootfs, "bin", applet))

    # --- what a case changes

    @property
    def process(self):
        return self.config["process"]

    @property
    def linux(self):
        return self.config["linux"]

    def args(self, *args):
        self.process["args"] = list(args)

    def sh(self, script):
        self.args("/bin/busybox", "sh", "-c", script)

    def mount(self, destination, kind, source, *options, **more):
        self.config["mounts"].append({"destination": destination, "type": kind, "source": source, "options": list(options), **more})

    def namespace(self, kind, path=None, absent=False):
        kept = [n for n in self.linux["namespaces"] if n["type"] != kind]
        if not absent:
            kept.append({"type": kind, **({"path": path} if path else {})})
        self.linux["namespaces"] = kept

    def put(self, path, text="", mode=0o644):
        """A file below the root filesystem."""
        full = os.path.join(self.rootfs, path.lstrip("/"))
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w") as f:
            f.write(text)
        os.chmod(full, mode)
        return full

    def host_dir(self, name, **files):
        """A directory of the host, to be bound."""
        full = os.path.join(self.bundle, name)
        os.makedirs(full, exist_ok=True)
        for file, text in files.items():
            with open(os.path.join(full, file), "w") as f:
                f.write(text)
        return full

    def host(self, *command):
        """A command of the host; it must work."""
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    # --- the command line

    def call(self, *args, check=True, stdin=None, pass_fds=(), timeout=60, out=None):
        """Runs the program. out: file for the standard streams of what outlives the call (create, detached runs)."""
        argv = [self.program, "--root", self.state_dir, *args]
        streams = {"stdout": out, "stderr": out} if out else {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        done = subprocess.run(argv, input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL, text=True,
                              errors="replace", pass_fds=pass_fds, timeout=timeout, **streams)
        if check and done.returncode != 0:
            raise Refused(done.returncode, (done.stderr or "").strip() or (self.log() if out else ""))
        return done

    def write(self):
        with open(os.path.join(self.bundle, "config.json"), "w") as f:
            json.dump(self.config, f)

    def log(self):
        try:
            return open(os.path.join(self.bundle, "log"), errors="replace").read()
        except FileNotFoundError:
            return ""

    def run(self, *options, **more):
        """Runs to the end; the facts that the payload prints."""
        self.write()
        done = self.call("run", "--bundle", self.bundle, *options, self.id, **more)
        return parse(done.stdout)

    def exit_code(self, *options):
        self.write()
        return self.call("run", "--bundle", self.bundle, *options, self.id, check=False).returncode

    def create(self, *options, **more):
        self.write()
        with open(os.path.join(self.bundle, "log"), "a") as out:
            self.call("create", "--bundle", self.bundle, *options, self.id, out=out, **more)

    def start(self):
        self.call("start", self.id)

    def begin(self, *options):
        """create and start of a process that goes on."""
        self.create(*options)
        self.start()

    def exec(self, *command, options=(), process=None, **more):
        """The facts that an exec prints."""
        if process is not None:
            path = os.path.join(self.bundle, "process.json")
            with open(path, "w") as f:
                json.dump(process, f)
            return parse(self.call("exec", "--process", path, *options, self.id, **more).stdout)
        return parse(self.call("exec", *options, self.id, *command, **more).stdout)

    def state(self):
        return json.loads(self.call("state", self.id).stdout)

    def status(self):
        done = self.call("state", self.id, check=False)
        return json.loads(done.stdout)["status"] if done.returncode == 0 else "none"

    def wait_for(self, status, seconds=10):
        until = time.monotonic() + seconds
        while (now := self.status()) != status:
            if time.monotonic() > until:
                raise Refused(0, f"waited {seconds} s for {status}: it is {now}")
            time.sleep(0.02)

    def wait_log(self, text, seconds=10):
        until = time.monotonic() + seconds
        while text not in self.log():
            if time.monotonic() > until:
                raise Refused(0, f"waited {seconds} s for \"{text}\" in the output: {self.log()[-300:]}")
            time.sleep(0.02)

    def cgroup(self, name):
        """A control file of the first process's cgroup, by its v1 or v2 name: ("pids", "pids.max")."""
        pid = self.state()["pid"]
        for line in open(f"/proc/{pid}/cgroup"):
            _, controllers, path = line.strip().split(":", 2)
            if self.view == "v1" and name[0] in controllers.split(","):
                base = "/sys/fs/cgroup/" + name[0] + path
            elif self.view == "v2" and controllers == "":
                base = "/sys/fs/cgroup" + path
            else:
                continue
            try:
                return open(os.path.join(base, name[1])).read().strip().replace("\n", ";")
            except OSError as e:
                return f"({e.strerror})"
        return "(no such controller)"

    def end(self):
        self.call("delete", "--force", self.id, check=False)
        for step in reversed(self.undo):
            step()
        shutil.rmtree(self.bundle, ignore_errors=True)


def parse(output):
    facts = {}
    for line in output.splitlines():
        name, equals, value = line.partition("=")
        if not equals:
            facts["text." + name] = ""
            continue
        while name in facts:  # several mounts on one place
            name += "'"
        facts[name] = value
    return facts


class Listener:
    """An AF_UNIX socket that takes descriptors: a console socket, a seccomp listener."""

    def __init__(self, path):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(path)
        self.socket.listen(4)

    def take(self, seconds=10):
        """(bytes, descriptors) of the first message of the next connection."""
        self.socket.settimeout(seconds)
        connection, _ = self.socket.accept()
        with connection:
            connection.settimeout(seconds)
            data, fds, _, _ = socket.recv_fds(connection, 1 << 16, 4)
            return data, fds

    def close(self):
        self.socket.close()


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
