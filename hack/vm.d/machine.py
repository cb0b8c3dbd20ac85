"""One qemu machine of hack/vm: its command line, its streams, its end.

Streams are virtio-serial ports: out and err (the command's; each ends with a secret mark, so that the end of the output
is known and not guessed), control (lines of guest-init: begun, exit N, fail TEXT), in; and ttyS0, the kernel's console.
"""
import collections
import ctypes
import fcntl
import glob
import os
import secrets
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field

import kernel as kernels

QEMU = "qemu-system-x86_64"
CUT, TIMEOUT, BROKEN = 123, 124, 125


@dataclass
class Options:
    repo: str
    command: list
    cwd: str
    memory: int = 2048
    cpus: int = 2
    timeout: float = 600
    out: list = field(default_factory=list)
    stdin: bool = False
    disk: str = ""
    disk_size: int = 16
    cut_after: float | None = None
    cut_at: bytes = b""
    console: bool = False


def say(text):
    print(f"vm: {text}", file=sys.stderr, flush=True)


def accelerator(cache):
    """kvm where a guest really runs under it, else tcg. A /dev/kvm that opens proves nothing (nested, emulated): the
    firmware must come to its end within 3 s. Asked once per boot of this machine."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"]
    kvm = ["-accel", "kvm", "-cpu", "host"]
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    answer = os.path.join(cache, "kvm-works")
    known = kernels.read(answer).decode().split() if os.path.exists(answer) else []
    if known[:1] != [boot]:
        firmware = [QEMU, *kvm, "-nodefaults", "-display", "none", "-m", "64", "-no-reboot",
                    "-chardev", "stdio,id=c", "-device", "isa-debugcon,iobase=0x402,chardev=c"]
        with subprocess.Popen(firmware, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as qemu:
            timer = threading.Timer(3, qemu.kill)
            timer.start()
            works = any(b"No bootable device" in line for line in qemu.stdout)
            timer.cancel()
            qemu.kill()
        known = [boot, "yes" if works else "no"]
        kernels.write(answer, " ".join(known).encode())
    return kvm if known[1] == "yes" else ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"]


def make_disk(path, gigabytes):
    with open(path, "wb") as file:
        file.truncate(gigabytes << 30)
    done = subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", path],
                          stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        os.unlink(path)
        raise kernels.Unavailable(f"mkfs.ext4 {path}: {done.stderr.strip()}")


def sweep(parent):
    """Removes what a run left that was killed before its VM was up. A living run holds a lock on its folder."""
    for path in glob.glob(os.path.join(parent, "berth-vm.*")):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.stat(fd).st_mtime > 60:      # a younger one may be about to take its lock
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(fd)


def direct_io(path):
    try:
        os.close(os.open(path, os.O_RDWR | os.O_DIRECT))
        return True
    except OSError:
        return False


class Machine:
    """Not reusable: one command, one end. run() returns the exit code of hack/vm."""

    def __init__(self, kernel, options):
        self.kernel, self.options = kernel, options
        self.mark = f"<vm-end-{secrets.token_hex(16)}>".encode()
        self.console = collections.deque(maxlen=40)
        self.lock = threading.RLock()    # kill() may interrupt kill()
        self.killed = ""                # why we killed qemu: "", "timeout", "cut", "signal N"
        self.begun, self.verdict = False, ""
        self.qemu = None

    def run(self):
        parent = "/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir()
        sweep(parent)
        with tempfile.TemporaryDirectory(prefix="berth-vm.", dir=parent) as work:
            lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY)      # until we end; see sweep
            fcntl.flock(lock, fcntl.LOCK_SH)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, lambda n, _: self.kill(f"signal {n}"))
            self.start(work)
            if self.killed:
                self.qemu.kill()
            watchdog = threading.Timer(self.options.timeout, self.kill, ["timeout"])
            watchdog.daemon = True
            watchdog.start()
            try:
                self.relay()
            finally:
                watchdog.cancel()
                self.qemu.kill()
                self.qemu.wait()
            return self.ended(kernels.read(os.path.join(work, "qemu.err")).decode(errors="replace"))

    def start(self, work):
        o = self.options
        disk = o.disk or os.path.join(work, "disk")
        if not os.path.exists(disk):
            make_disk(disk, o.disk_size)
        initrd = os.path.join(work, "initrd")
        base = kernels.initramfs(self.kernel, os.path.join(o.repo, "hack/vm.d/initramfs-init"))
        kernels.write(initrd, base + kernels.cpio(self.guest_files()))
        self.unneeded = [initrd] if o.disk else [initrd, disk]
        ours, theirs = {}, {}
        for name in ("console", "control", "out", "err", "in"):
            ours[name], theirs[name] = socket.socketpair()
        args = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", *accelerator(self.kernel.cache),
                "-smp", str(o.cpus), "-m", str(o.memory), "-kernel", self.kernel.image, "-initrd", initrd, "-append",
                "console=ttyS0 quiet panic=-1 oops=panic no_timer_check mitigations=off random.trust_cpu=on cgroup_no_v1=all",
                "-drive", f"file={disk.replace(',', ',,')},format=raw,if=none,id=disk,cache={self.cache_mode(disk)}",
                "-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci", "-device", "virtio-serial-pci,max_ports=8",
                "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"]
        for number, path in enumerate(o.out):
            args += ["-virtfs", f"local,path={path.replace(',', ',,')},mount_tag=out{number},security_model=passthrough,multidevs=remap"]
        for name, end in theirs.items():
            args += ["-chardev", f"socket,id={name},fd={end.fileno()}"]
            args += ["-serial", "chardev:console"] if name == "console" else ["-device", f"virtserialport,chardev={name},name={name}"]
        libc = ctypes.CDLL(None)

        def die_with_parent():
            libc.prctl(1, signal.SIGKILL)    # PR_SET_PDEATHSIG

        with open(os.path.join(work, "qemu.err"), "wb") as errors:
            # A process group of its own: Ctrl-C reaches us alone, and we say what became of the VM. Not a session of its own,
            # which would be a scheduling group (autogroup) beside the caller's.
            self.qemu = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, process_group=0,
                                         pass_fds=[end.fileno() for end in theirs.values()], preexec_fn=die_with_parent)
        for end in theirs.values():
            end.close()
        self.ports = ours
        if o.stdin:
            threading.Thread(target=self.feed, args=[ours["in"]], daemon=True).start()

    def cache_mode(self, disk):
        """A disk that is thrown away ignores flushes: what it would protect is gone with it, and a busy host disk would make
        every fsync of the guest wait. A kept one is written past the host's page cache where its filesystem can."""
        return "unsafe" if not self.options.disk else "none" if direct_io(disk) else "writeback"

    def guest_files(self):
        """What guest-init finds in /run/vm. All text is quoted for a shell or stands alone on a line."""
        o = self.options
        modules = self.kernel.modules and f"/lib/modules/{self.kernel.version}"
        texts = {
            "config": f"vm_modules={shlex.quote(self.kernel.modules)} vm_modules_at={shlex.quote(modules)} vm_stdin={'1' if o.stdin else ''}",
            "command": f"cd {shlex.quote(o.cwd)} && exec setsid {shlex.join(o.command)}",
            "out": "\n".join(o.out),
            "keep": "\n".join(sorted({o.repo, o.cwd} - {"/"})),
        }
        files = {name: os.fsencode(text) + (b"\n" if text else b"") for name, text in texts.items()}
        files["end"] = self.mark
        files["guest-init"] = kernels.read(os.path.join(o.repo, "hack/vm.d/guest-init"))
        return {f"vm/{name}": (0o600, data) for name, data in files.items()}

    @staticmethod
    def feed(port):
        try:
            while data := os.read(0, 65536):
                port.sendall(data)
            port.shutdown(socket.SHUT_WR)
        except OSError:
            pass        # the VM is gone

    def relay(self):
        """Moves bytes until the guest has told the exit code and both outputs are complete, or qemu is gone."""
        select, held = selectors.DefaultSelector(), {"out": b"", "err": b""}
        for name in ("console", "control", "out", "err"):
            select.register(self.ports[name], selectors.EVENT_READ, name)
        lines = {"console": b"", "control": b""}
        seen = b""
        while select.get_map():
            for key, _ in select.select():
                name = key.data
                data = key.fileobj.recv(1 << 16)
                if not data:
                    select.unregister(key.fileobj)
                    if name in held:
                        self.write(name, held.pop(name))
                elif name in lines:
                    *whole, lines[name] = (lines[name] + data).split(b"\n")
                    for line in whole:
                        self.line(name, line.decode(errors="replace").rstrip("\r"))
                elif name in held:
                    data = held[name] + data
                    ready, end, _ = data.partition(self.mark)
                    if end:
                        held.pop(name)
                    else:               # what may be the beginning of the mark waits for its rest
                        keep = next((n for n in range(min(len(data), len(self.mark) - 1), 0, -1) if data.endswith(self.mark[:n])), 0)
                        ready, held[name] = data[:len(data) - keep], data[len(data) - keep:]
                    self.write(name, ready)
                    if name == "out" and self.options.cut_at:
                        seen = (seen + ready)[-(len(ready) + len(self.options.cut_at)):]
                        if self.options.cut_at in seen:
                            self.kill("cut")
            if self.verdict and (not held or self.verdict.startswith("fail")):
                return
        self.qemu.wait()

    def line(self, name, text):
        if name == "console":
            self.console.append(text)
            if self.options.console:
                print(f"console: {text}", file=sys.stderr, flush=True)
        elif text == "begun":
            self.begun = True
            for path in self.unneeded:      # qemu has them open; a SIGKILL to us shall not leave them behind
                os.unlink(path)
            if self.options.cut_after is not None:
                timer = threading.Timer(self.options.cut_after, self.kill, ["cut"])
                timer.daemon = True
                timer.start()
        else:
            self.verdict = text

    @staticmethod
    def write(name, data):
        fd = {"out": 1, "err": 2}[name]
        while data:
            data = data[os.write(fd, data):]

    def kill(self, why):
        with self.lock:
            if not self.killed and not self.verdict:
                self.killed = why
                if self.qemu:
                    self.qemu.kill()

    def ended(self, words):
        o = self.options
        if self.killed == "cut":
            say(f"power cut{f', the disk is {o.disk}' if o.disk else ''}")
            return CUT
        if self.killed == "timeout":
            say(f"killed after {o.timeout:g} s (--timeout): " + ("the command had not ended" if self.begun else "the VM had not come up"))
            self.show_console(10)
            return TIMEOUT
        if self.killed:
            say(f"killed by {self.killed}")
            return 128 + int(self.killed.split()[1])
        if self.verdict.startswith("exit "):
            if o.cut_after is not None or o.cut_at:
                say("the command ended before the power was cut")
            return int(self.verdict.split()[1])
        panic = any("Kernel panic" in line for line in self.console)
        say("the kernel panicked" if panic else self.verdict.removeprefix("fail ") or
            f"the machine went down with no exit code of the command (qemu ended with {self.qemu.returncode})")
        self.show_console(40)
        for text in words.strip().splitlines():
            say(f"qemu: {text}")
        return BROKEN

    def show_console(self, count):
        for text in list(self.console)[-count:]:
            say(f"console: {text}")


def check_programs():
    for program, package in ((QEMU, "qemu-system-x86"), ("mkfs.ext4", "e2fsprogs"), ("busybox", "busybox-static")):
        if not shutil.which(program):
            raise kernels.Unavailable(f"{program} is missing (Debian package {package}; hack/deps --vm brings all)")
