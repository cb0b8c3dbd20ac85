"""The corpus: what each key of config.json must do, as a payload inside sees it.

A case takes a Container of any runtime and returns facts. `expect` are facts that the specification settles (a value, or a
regular expression after "~"); all other facts are compared between the runtimes. `only` limits a case to a cgroup version.
`host` names what the machine must have: a function that says why not.
"""
import fcntl
import json
import os
import struct
import subprocess
import threading
import time

from bundle import CAPS, Listener, Refused, kill, parse

CASES = []


def case(only=None, host=None, facts=None, **expect):
    """facts: names of facts to compare (regular expression), by default all."""
    def add(function):
        CASES.append({"name": function.__name__, "run": function, "only": only, "host": host, "facts": facts,
                      "expect": {k.replace("__", "."): v for k, v in expect.items()}, "about": (function.__doc__ or "").strip()})
        return function
    return add


def refused(c, *options):
    """A configuration that must not start. Nothing of it may be left."""
    try:
        c.create(*options)
    except Refused:
        return {"refused": "yes", "left": c.status()}
    return {"refused": "no"}


# --- process

@case(uid="0 0 0", gid="0 0 0", cwd="/", no_new_privs="0", seccomp="0", session__leader="1", keepcaps="0", pdeathsig="0",
      signals__SigIgn="0000000000000000", signals__SigBlk="0000000000000000", lo__up="1", net__devices="lo", pid="1", tty="000")
def base(c):
    """A plain container: every fact there is."""
    return c.run()


@case(uid="1000 1000 1000", gid="1001 1001 1001", groups="~^(1001 )?5 6$", cap__Eff="0000000000000000", cap__Prm="0000000000000000")
def user(c):
    c.process["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [5, 6]}
    return c.run()


@case(umask="0077")
def user_umask(c):
    c.process["user"]["umask"] = 0o077
    return c.run()


@case(env__A="", env__EQ="a=b", arg__1="two words", arg__2="", arg__3='quote"\\')
def args_and_env(c):
    """Strings arrive byte for byte; nothing is added to the environment but HOME."""
    c.process["env"] = ["PATH=/bin", "HOME=/h", "A=", "EQ=a=b"]
    c.args("/bin/busybox", "sh", "-c", 'printf "arg.1=%s\\narg.2=%s\\narg.3=%s\\n" "$1" "$2" "$3"; exec /bin/facts process', "sh",
           "two words", "", 'quote"\\')
    return c.run()


@case(env__HOME="/home/u")
def home_from_passwd(c):
    """Without HOME the runtime takes it from the image's passwd."""
    c.put("/etc/passwd", "root:x:0:0::/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n")
    c.process["env"] = ["PATH=/bin"]
    c.process["user"] = {"uid": 1000, "gid": 1000}
    c.args("/bin/facts", "process")
    return c.run()


@case(cwd="/made/here")
def cwd_is_made(c):
    c.process["cwd"] = "/made/here"
    c.args("/bin/facts", "process")
    return c.run()


@case(cwd="/real")
def cwd_through_symlink(c):
    os.makedirs(c.rootfs + "/real")
    os.symlink("real", c.rootfs + "/link")
    c.process["cwd"] = "/link"
    c.args("/bin/facts", "process")
    return c.run()


@case(refused="yes", left="none")
def cwd_relative_is_refused(c):
    c.process["cwd"] = "tmp"
    return refused(c)


@case(cap__Bnd="0000000000000000", cap__Eff="0000000000000000", cap__Inh="0000000000000000", cap__Amb="0000000000000000")
def capabilities_none(c):
    c.process["capabilities"] = {}
    return c.run()


@case(cap__Amb="0000000000000400", cap__Eff="0000000000000400", cap__Inh="0000000000000400")
def capabilities_ambient(c):
    """An ambient capability stays with a user that is not root."""
    only = ["CAP_NET_BIND_SERVICE"]
    c.process["user"] = {"uid": 1000, "gid": 1000}
    c.process["capabilities"] = {"bounding": CAPS, "effective": only, "permitted": only, "inheritable": only, "ambient": only}
    return c.run()


@case(cap__Inh="0000000000000000")
def capabilities_inheritable_empty(c):
    """CVE-2022-24769: what is not asked for is not inheritable."""
    return c.run()


@case(cap__Bnd="0000000000000401")
def capabilities_unknown_is_a_warning(c):
    c.process["capabilities"] = {"bounding": ["CAP_CHOWN", "CAP_NET_BIND_SERVICE", "CAP_TEST"], "effective": [], "permitted": []}
    return c.run()


@case(rlimit__NOFILE="100 200", rlimit__CORE="0 4096", rlimit__NPROC="50 60")
def rlimits(c):
    c.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 4096},
                            {"type": "RLIMIT_NPROC", "soft": 50, "hard": 60}]
    return c.run()


@case(refused="yes", left="none")
def rlimits_twice_is_refused(c):
    c.process["rlimits"] = [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}, {"type": "RLIMIT_CORE", "soft": 1, "hard": 1}]
    return refused(c)


@case(refused="yes", left="none")
def rlimits_unknown_is_refused(c):
    c.process["rlimits"] = [{"type": "RLIMIT_TEST", "soft": 0, "hard": 0}]
    return refused(c)


@case(no_new_privs="1")
def no_new_privileges(c):
    c.process["noNewPrivileges"] = True
    return c.run()


@case(oom_score_adj="500")
def oom_score_adj(c):
    c.process["oomScoreAdj"] = 500
    return c.run()


@case(sched__policy="3", sched__nice="5")
def scheduler_batch(c):
    c.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5}
    return c.run()


@case(sched__policy="1", sched__priority="10")
def scheduler_fifo(c):
    c.process["scheduler"] = {"policy": "SCHED_FIFO", "priority": 10}
    if c.view == "v1" and os.path.exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"):
        c.linux["resources"] = {"cpu": {"realtimePeriod": 1000000, "realtimeRuntime": 10000}}  # a new group has none
    return c.run()


@case(sched__policy="5")
def scheduler_idle(c):
    c.process["scheduler"] = {"policy": "SCHED_IDLE"}
    return c.run()


@case(refused="yes", left="none")
def scheduler_unknown_is_refused(c):
    c.process["scheduler"] = {"policy": "SCHED_SOMETIMES"}
    return refused(c)


@case(ioprio="0x4003")
def io_priority(c):
    c.process["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 3}
    return c.run()


@case(ioprio="0x6000")
def io_priority_idle(c):
    c.process["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE", "priority": 0}
    return c.run()


@case(personality="0x8", machine="i686")
def personality(c):
    c.linux["personality"] = {"domain": "LINUX32"}
    return c.run()


@case(facts="tty|console", tty="111", tty__size="33x77", tty__controlling="yes")
def terminal(c):
    """Console socket, size, controlling terminal."""
    c.process["terminal"] = True
    c.process["consoleSize"] = {"height": 33, "width": 77}
    c.args("/bin/facts", "tty")
    listener = Listener(c.bundle + "/console.sock")
    c.undo.append(listener.close)
    c.create("--console-socket", listener.path)
    _, fds = listener.take()
    c.start()
    output = b""
    try:
        while part := os.read(fds[0], 4096):
            output += part
    except OSError:
        pass  # EIO: the other end is closed
    os.close(fds[0])
    return parse(output.decode().replace("\r", ""))


@case(facts="fd", fd__3="~^pipe: ", fd__4="~^pipe: ")
def preserved_descriptors(c):
    """--preserve-fds 2 keeps 3 and 4, nothing more."""
    ends = [*os.pipe(), *os.pipe()]
    try:
        for i, fd in enumerate(ends[:3]):
            os.dup2(fd, 3 + i + 40)
        c.args("/bin/facts", "fds")
        c.write()
        script = 'exec 3<&43 4<&44 5<&45; exec "$@"'
        done = subprocess.run(["bash", "-c", script, "bash", c.program, "--root", c.state_dir, "run", "--bundle", c.bundle,
                               "--preserve-fds", "2", c.id], pass_fds=(43, 44, 45), capture_output=True, text=True,
                              stdin=subprocess.DEVNULL)
        if done.returncode:
            raise Refused(done.returncode, done.stderr)
        return parse(done.stdout)
    finally:
        for fd in [*ends, 43, 44, 45]:
            try:
                os.close(fd)
            except OSError:
                pass


@case(facts="fd", fd__5="")
def descriptors_do_not_leak(c):
    """A descriptor of the caller that was not asked for does not reach the payload. CVE-2024-21626."""
    fd = os.open("/", os.O_RDONLY)
    try:
        c.args("/bin/facts", "fds")
        c.write()
        os.dup2(fd, 5, inheritable=True)
        facts = parse(c.call("run", "--bundle", c.bundle, c.id, pass_fds=(5,)).stdout)
        facts.setdefault("fd.5", "")
        return facts
    finally:
        os.close(fd)
        os.close(5)


@case(facts="code", code__0="0", code__7="7", code__signal="137", code__missing="~^(1|127|255)$", code__directory="~^(1|126|255)$")
def exit_codes(c):
    facts = {}
    for name, script in (("0", "exit 0"), ("7", "exit 7"), ("signal", "kill -9 $$")):
        c.sh(script)
        if name == "signal":  # PID 1 ignores a signal from its own namespace
            c.namespace("pid", absent=True)
        facts["code." + name] = str(c.exit_code())
    c.args("/bin/nothing")
    facts["code.missing"] = str(c.exit_code())
    c.args("/etc")
    facts["code.directory"] = str(c.exit_code())
    return facts


# --- namespaces

@case(hostname="box", domainname="example.org")
def hostname_and_domainname(c):
    c.config["hostname"] = "box"
    c.config["domainname"] = "example.org"
    return c.run()


@case(refused="yes", left="none")
def hostname_without_uts_is_refused(c):
    c.namespace("uts", absent=True)
    c.config["hostname"] = "box"
    return refused(c)


@case(ns__net="host", ns__ipc="host", ns__uts="host", ns__pid="host", ns__cgroup="host", ns__mnt="own")
def namespaces_only_mount(c):
    for kind in ("network", "ipc", "uts", "pid", "cgroup"):
        c.namespace(kind, absent=True)
    c.config["mounts"] = [m for m in c.config["mounts"] if m["destination"] != "/dev/mqueue"]
    return {k: v for k, v in c.run().items() if k != "pid"}


@case(facts="ns|net|lo", ns__net="other")
def network_namespace_by_path(c):
    """The joined one, with its devices."""
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "ip link add veth7 type veth peer name veth8; exec sleep 60"])
    c.undo.append(lambda: kill(holder))
    until = time.monotonic() + 10
    while "veth7" not in subprocess.run(["nsenter", "-t", str(holder.pid), "-n", "ip", "link"], capture_output=True, text=True).stdout:
        assert time.monotonic() < until
        time.sleep(0.02)
    c.namespace("network", f"/proc/{holder.pid}/ns/net")
    c.args("/bin/facts", "ns")
    facts = c.run()
    if facts["ns.net"] == os.readlink(f"/proc/{holder.pid}/ns/net"):
        facts["ns.net"] = "other"
    return facts


@case(facts="ns.pid|pid$", ns__pid="other", pid="~^[2-9]|1[0-9]+$")
def pid_namespace_by_path(c):
    holder = subprocess.Popen(["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sleep", "60"])
    c.undo.append(lambda: kill(holder))
    until = time.monotonic() + 10
    while not (inner := subprocess.run(["pgrep", "-P", str(holder.pid)], capture_output=True, text=True).stdout.split()):
        assert time.monotonic() < until
        time.sleep(0.02)
    c.namespace("pid", f"/proc/{inner[0]}/ns/pid")
    c.args("/bin/facts", "ns", "process")
    facts = c.run()
    if facts["ns.pid"] == os.readlink(f"/proc/{inner[0]}/ns/pid"):
        facts["ns.pid"] = "other"
    facts["pid"] = "2" if int(facts["pid"]) > 1 else facts["pid"]
    return facts


@case(refused="yes", left="none")
def namespace_of_wrong_type_is_refused(c):
    c.namespace("network", "/proc/self/ns/ipc")
    return refused(c)


@case(refused="yes", left="none")
def namespace_twice_is_refused(c):
    c.linux["namespaces"] += [{"type": "uts"}]
    return refused(c)


def map_ids(c):
    c.namespace("user")
    c.linux["uidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    c.linux["gidMappings"] = [{"containerID": 0, "hostID": 200000, "size": 65536}]
    c.host("chown", "-R", "100000:200000", c.rootfs)
    parent = c.bundle
    while parent != "/":
        os.chmod(parent, os.stat(parent).st_mode | 0o011)
        parent = os.path.dirname(parent)


@case(ns__user="own", uid="0 0 0", uid_map="~0 +100000 +65536", gid_map="~0 +200000 +65536", setgroups="allow")
def user_namespace(c):
    map_ids(c)
    return c.run()


@case(ns__user="own", uid="1000 1000 1000", groups="~^(1000 )?7 8$")
def user_namespace_user(c):
    map_ids(c)
    c.process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [7, 8]}
    return c.run()


@case(facts="timens|ns.time", ns__time="own", timens_offsets="monotonic 1337.000000042;boottime 86400.000000000;")
def time_namespace(c):
    c.namespace("time")
    c.linux["timeOffsets"] = {"monotonic": {"secs": 1337, "nanosecs": 42}, "boottime": {"secs": 86400, "nanosecs": 0}}
    return c.run()


@case(refused="yes", left="none")
def time_offsets_without_namespace_are_refused(c):
    c.linux["timeOffsets"] = {"monotonic": {"secs": 1, "nanosecs": 0}}
    return refused(c)


@case(facts="sysctl", **{"sysctl__net/ipv4/ip_forward": "1", "sysctl__kernel/shm_rmid_forced": "1"})
def sysctls(c):
    c.linux["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}
    c.args("/bin/facts", "sysctl", "net/ipv4/ip_forward", "sysctl", "kernel/shm_rmid_forced")
    return c.run()


@case(refused="yes", left="none")
def sysctl_of_the_host_is_refused(c):
    c.linux["sysctl"] = {"kernel.core_pattern": "|/tmp/x"}
    return refused(c)


@case(refused="yes", left="none")
def sysctl_net_without_namespace_is_refused(c):
    c.namespace("network", absent=True)
    c.linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
    return refused(c)


@case(facts="net", net__devices="inside0,lo")
def net_devices(c):
    """A device of the host is moved in under another name."""
    name = "bd" + c.id.rsplit("x", 1)[1]
    c.host("ip", "link", "add", name, "type", "veth", "peer", "name", name + "p")
    c.undo.append(lambda: subprocess.run(["ip", "link", "del", name], capture_output=True))
    c.linux["netDevices"] = {name: {"name": "inside0"}}
    c.args("/bin/facts", "ns")
    return c.run()


# --- root file system and mounts

@case(facts="text|write", write="EROFS")
def root_readonly(c):
    c.config["root"]["readonly"] = True
    c.sh("if touch /x 2> /dev/null; then echo write=ok; else echo write=EROFS; fi")
    return c.run()


@case(facts="mount./$", **{"mount__/": "~propagation=shared"})
def rootfs_propagation_shared(c):
    c.linux["rootfsPropagation"] = "shared"
    return c.run()


@case(facts="mount./$", **{"mount__/": "~propagation=unbindable"})
def rootfs_propagation_unbindable(c):
    c.linux["rootfsPropagation"] = "unbindable"
    return c.run()


@case(facts="mount./(made|file)|text|inner", inner="~hello", **{"mount__/made/dir": "~ro,nosuid,nodev,noexec"})
def bind_mounts(c):
    """A directory, and a file on a target that is not there yet."""
    directory = c.host_dir("source", hello="hello")
    c.mount("/made/dir", "bind", directory, "bind", "ro", "nosuid", "nodev", "noexec")
    c.mount("/made/file", "bind", directory + "/hello", "bind", "rw")
    c.sh("facts mounts; echo inner=$(cat /made/dir/hello)$(cat /made/file)")
    return c.run()


@case(facts="mount./r", **{"mount__/r": "~ ro", "mount__/r/sub": "~ ro"})
def bind_rro(c):
    """Recursive read-only reaches the mounts below."""
    directory = c.host_dir("tree")
    os.makedirs(directory + "/sub")
    c.host("mount", "-t", "tmpfs", "none", directory + "/sub")
    c.undo.append(lambda: c.host("umount", directory + "/sub"))
    c.mount("/r", "bind", directory, "rbind", "rro")
    return c.run()


@case(facts="mount./r", **{"mount__/r": "~nosuid,nodev,noexec,noatime,nodiratime", "mount__/r/sub": "~nosuid,nodev,noexec,noatime"})
def bind_recursive_attributes(c):
    directory = c.host_dir("tree")
    os.makedirs(directory + "/sub")
    c.host("mount", "-t", "tmpfs", "none", directory + "/sub")
    c.undo.append(lambda: c.host("umount", directory + "/sub"))
    c.mount("/r", "bind", directory, "rbind", "rnosuid", "rnodev", "rnoexec", "rnoatime", "rnodiratime")
    return c.run()


@case(facts="mount./r", **{"mount__/r/sub": "~^tmpfs rw"})
def bind_ro_is_not_recursive(c):
    directory = c.host_dir("tree")
    os.makedirs(directory + "/sub")
    c.host("mount", "-t", "tmpfs", "none", directory + "/sub")
    c.undo.append(lambda: c.host("umount", directory + "/sub"))
    c.mount("/r", "bind", directory, "rbind", "ro")
    return c.run()


@case(facts="mount./n|follow", follow="refused", **{"mount__/n": "~nosymfollow"})
def mount_nosymfollow(c):
    """prohibit_symlink: links on the mount are not followed."""
    directory = c.host_dir("source", hello="hello")
    os.symlink("hello", directory + "/link")
    c.mount("/n", "bind", directory, "bind", "nosymfollow")
    c.sh("facts mounts; if cat /n/link > /dev/null 2>&1; then echo follow=works; else echo follow=refused; fi")
    return c.run()


@case(facts="mount./t|stat", stat="1777 7 8", **{"mount__/t": "~nosuid,nodev.*size=1024k"})
def tmpfs_options(c):
    c.mount("/t", "tmpfs", "tmpfs", "nosuid", "nodev", "size=1m", "mode=1777", "uid=7", "gid=8")
    c.sh("facts mounts; echo stat=$(busybox stat -c '%a %u %g' /t)")
    return c.run()


@case(facts="copied|mount./t", copied="one,two link:one")
def tmpfs_copy_up(c):
    c.put("/t/one", "1")
    c.put("/t/deep/two", "2")
    os.symlink("one", c.rootfs + "/t/link")
    c.mount("/t", "tmpfs", "tmpfs", "tmpcopyup")
    c.sh("echo copied=$(ls /t/one | busybox sed 's,.*/,,'),$(ls /t/deep) link:$(readlink /t/link)")
    return c.run()


@case(facts="mount./real|seen", seen="hello")
def mount_through_symlink(c):
    """A link of the image on the way to a mount point stays in the root."""
    os.makedirs(c.rootfs + "/real")
    os.symlink("/real", c.rootfs + "/link")
    c.mount("/link/deep", "bind", c.host_dir("source", hello="hello"), "bind")
    c.sh("facts mounts; echo seen=$(cat /real/deep/hello)")
    return c.run()


@case(facts="seen", seen="hello")
def mount_relative_paths(c):
    """A relative source is relative to the bundle; a relative destination to /."""
    c.host_dir("source", hello="hello")
    c.mount("rel/here", "bind", "source", "bind")
    c.sh("echo seen=$(cat /rel/here/hello)")
    return c.run()


@case(facts="mount./s|mount./v", **{"mount__/s": "~propagation=shared", "mount__/v": "~propagation=master"})
def mount_propagation(c):
    source = c.host_dir("source")
    c.host("mount", "--bind", source, source)
    c.undo.append(lambda: c.host("umount", source))
    c.host("mount", "--make-shared", source)
    c.mount("/s", "bind", source, "bind", "shared")
    c.mount("/v", "bind", source, "bind", "rslave")
    return c.run()


@case(facts="order", order="second")
def mounts_in_order(c):
    c.mount("/o", "bind", c.host_dir("one", word="first"), "bind")
    c.mount("/o", "bind", c.host_dir("two", word="second"), "bind")
    c.sh("echo order=$(cat /o/word)")
    return c.run()


@case(refused="yes", left="none")
def mount_source_missing_is_refused(c):
    c.mount("/m", "bind", c.bundle + "/nothing", "bind")
    return refused(c)


@case(refused="yes", left="none")
def mount_over_proc_is_refused(c):
    c.mount("/proc/self", "tmpfs", "tmpfs")
    return refused(c)


@case(facts="owner", owner="1000 1001")
def idmapped_mount(c):
    source = c.host_dir("source", file="x")
    os.chown(source + "/file", 101000, 201001)
    c.mount("/i", "bind", source, "bind",
            uidMappings=[{"containerID": 100000, "hostID": 0, "size": 65536}], gidMappings=[{"containerID": 200000, "hostID": 0, "size": 65536}])
    c.sh("echo owner=$(busybox stat -c '%u %g' /i/file)")
    return c.run()


@case(facts="size|dir|read", size__meminfo="0", dir="0", read__keys="")
def masked_paths(c):
    """Files read as empty, directories as empty, what is missing is skipped."""
    c.put("/secret/file", "secret")
    c.linux["maskedPaths"] = ["/proc/keys", "/secret", "/proc/meminfo", "/nothing/here"]
    c.sh("echo size.meminfo=$(cat /proc/meminfo | wc -c); echo dir=$(ls /secret | wc -l); echo read.keys=$(cat /proc/keys)")
    return c.run()


@case(facts="mount./proc/sys|write", write__sys="refused", write__dir="refused")
def readonly_paths(c):
    c.put("/ro/file", "x")
    c.linux["readonlyPaths"] = ["/proc/sys", "/ro", "/nothing/here"]
    c.sh("facts mounts; (echo 1 > /proc/sys/net/ipv4/ip_forward) 2> /dev/null && echo write.sys=works || echo write.sys=refused;"
         "touch /ro/new 2> /dev/null && echo write.dir=works || echo write.dir=refused")
    return c.run()


@case(facts="file./dev/(one|two|sub)", **{"file__/dev/one": "020640 3:4 dev=1:5", "file__/dev/two": "010622 0:0", "file__/dev/sub/three": "020666 0:0 dev=1:7"})
def devices(c):
    c.linux["devices"] = [{"path": "/dev/one", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4},
                          {"path": "/dev/two", "type": "p", "fileMode": 0o622, "uid": 0, "gid": 0},
                          {"path": "/dev/sub/three", "type": "c", "major": 1, "minor": 7, "fileMode": 0o666, "uid": 0, "gid": 0}]
    return c.run()


@case(facts="open", open__null="works", open__kmsg="refused", open__allowed="works")
def device_rules(c):
    """Deny all, allow one more: the default devices stay allowed."""
    c.process["capabilities"] = {k: CAPS + ["CAP_SYSLOG"] for k in ("bounding", "effective", "permitted")}
    c.linux["resources"] = {"devices": [{"allow": False, "access": "rwm"},
                                        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"}]}
    c.linux["devices"] = [{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666},
                          {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}]
    c.sh("for d in null:null kmsg:kmsg fuse:allowed; do f=/dev/${d%:*};"
         "if (: < $f) 2> /tmp/why; then r=works; elif busybox grep -q 'not permitted' /tmp/why; then r=refused; else r=works; fi;"
         "echo open.${d#*:}=$r; done")
    return c.run()


# --- seccomp

@case(facts="mkdir|seccomp|sync", mkdir="refused", seccomp="2")
def seccomp_errno(c):
    c.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
                          "syscalls": [{"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}
    c.sh("facts process; mkdir /tmp/x 2> /tmp/why && echo mkdir=works || { busybox grep -q 'not supported' /tmp/why && echo mkdir=refused; }")
    return c.run()


@case(facts="kill", kill__9="works", kill__0="refused")
def seccomp_arguments(c):
    """Arguments of one rule are and-ed, rules of one call or-ed."""
    c.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
                          "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_ERRNO",
                                        "args": [{"index": 1, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 1, "op": "SCMP_CMP_GE"}]}]}
    c.sh("sleep 50 & kill -0 $! 2> /dev/null && echo kill.0=works || echo kill.0=refused; kill -9 $! && echo kill.9=works")
    return c.run()


@case(refused="yes", left="none")
def seccomp_unknown_action_is_refused(c):
    c.linux["seccomp"] = {"defaultAction": "SCMP_ACT_SOMETIMES"}
    return refused(c)


@case(facts="notify|state", notify__fds="1", state__status="~^creat", notify__answer="61")
def seccomp_notify(c):
    """The listener gets the descriptor and the state; it answers the call."""
    listener = Listener(c.bundle + "/seccomp.sock")
    c.undo.append(listener.close)
    c.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "listenerPath": listener.path,
                          "listenerMetadata": "meta", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]}
    c.sh("mkdir /tmp/x 2> /tmp/why; cat /tmp/why")
    got = {}

    def serve():
        try:
            data, fds = listener.take(20)
        except OSError:
            return  # the runtime did not come
        got["state"], got["fds"] = json.loads(data), fds
        request = bytearray(80)
        fcntl.ioctl(fds[0], 0xc0502100, request)  # SECCOMP_IOCTL_NOTIF_RECV
        ident = struct.unpack_from("Q", request)[0]
        fcntl.ioctl(fds[0], 0xc0182101, bytearray(struct.pack("QqiI", ident, 0, -61, 0)))  # SEND: ENODATA
        os.close(fds[0])

    thread = threading.Thread(target=serve)
    thread.start()
    c.begin()
    thread.join(20)
    c.wait_for("stopped")
    state = got["state"]
    return {"notify.fds": str(len(got["fds"])), "state.names": ",".join(state["fds"]), "state.metadata": state.get("metadata", ""),
            "state.status": state["state"]["status"], "state.id": str(state["state"]["id"] == c.id),
            "notify.answer": "61" if "No data" in c.log() else c.log()}


# --- cgroups

@case(only="v1", facts="cg", cg__pids="77", cg__memory="104857600", cg__shares="512", cg__quota="50000", cg__cpus="0")
def resources_v1(c):
    c.linux["resources"] = {"pids": {"limit": 77}, "memory": {"limit": 104857600},
                            "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"}}
    c.args("/bin/sleep", "60")
    c.begin()
    return {"cg.pids": c.cgroup(("pids", "pids.max")), "cg.memory": c.cgroup(("memory", "memory.limit_in_bytes")),
            "cg.shares": c.cgroup(("cpu", "cpu.shares")), "cg.quota": c.cgroup(("cpu", "cpu.cfs_quota_us")),
            "cg.cpus": c.cgroup(("cpuset", "cpuset.cpus"))}


@case(only="v1", facts="cg", cg__pids="10", cg__memory="52428800", cg__shares="256", cg__pids_after="20", cg__kept="52428800")
def update_v1(c):
    """Members that are not there keep their values."""
    c.linux["resources"] = {"pids": {"limit": 77}, "memory": {"limit": 104857600}}
    c.args("/bin/sleep", "60")
    c.begin()
    c.call("update", "--resources", "-", c.id, stdin=json.dumps({"pids": {"limit": 10}, "memory": {"limit": 52428800}, "cpu": {"shares": 256}}))
    facts = {"cg.pids": c.cgroup(("pids", "pids.max")), "cg.memory": c.cgroup(("memory", "memory.limit_in_bytes")),
             "cg.shares": c.cgroup(("cpu", "cpu.shares"))}
    c.call("update", "--resources", "-", c.id, stdin=json.dumps({"pids": {"limit": 20}}))
    facts["cg.pids_after"] = c.cgroup(("pids", "pids.max"))
    facts["cg.kept"] = c.cgroup(("memory", "memory.limit_in_bytes"))
    return facts


def no_v2_controllers():
    return "" if open("/sys/fs/cgroup/cgroup.controllers").read().split() else "the v2 tree has no controllers"


def lacks_v2_hugetlb():
    if "hugetlb" not in open("/sys/fs/cgroup/cgroup.controllers").read().split():
        return "the v2 tree has no hugetlb controller"
    return ""


@case(only="v2", host=lacks_v2_hugetlb, facts="cg", cg__huge="4194304")
def hugepage_limit_v2(c):
    c.linux["resources"] = {"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}
    c.args("/bin/sleep", "60")
    c.begin()
    return {"cg.huge": c.cgroup(("hugetlb", "hugetlb.2MB.max"))}


@case(only="v2", host=lacks_v2_hugetlb, facts="cg", cg__huge="6291456")
def unified_v2(c):
    c.linux["resources"] = {"unified": {"hugetlb.2MB.max": "6291456"}}
    c.args("/bin/sleep", "60")
    c.begin()
    return {"cg.huge": c.cgroup(("hugetlb", "hugetlb.2MB.max"))}


@case(facts="path", path="~/berth-corpus-abs/ID$")
def cgroups_path(c):
    c.linux["cgroupsPath"] = f"/berth-corpus-abs/{c.id}"
    c.namespace("cgroup", absent=True)
    c.args("/bin/facts", "cgroup")
    facts = c.run()
    subprocess.run(["sh", "-c", "find /sys/fs/cgroup -depth -path '*berth-corpus-abs*' -type d -exec rmdir {} + 2> /dev/null"])
    return {"path": facts.get("cgroup.pids") if c.view == "v1" else facts.get("cgroup.unified")}


@case(facts="cgroup", only="v1", cgroup__pids="/")
def cgroup_namespace(c):
    c.args("/bin/facts", "cgroup")
    return {k: v for k, v in c.run().items() if k == "cgroup.pids"}


@case(facts="listed", listed="yes")
def cgroup_mount(c):
    c.mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro")
    c.sh("if [ -e /sys/fs/cgroup/cgroup.procs ] || [ -e /sys/fs/cgroup/pids/cgroup.procs ]; then echo listed=yes; fi")
    return c.run()


# --- lifecycle

@case(facts="status", status__0="none", status__1="created", status__2="running", status__3="paused", status__4="running", status__5="stopped",
      status__6="none")
def lifecycle(c):
    c.args("/bin/sleep", "60")
    seen = [c.status()]
    c.create()
    seen.append(c.status())
    c.start()
    seen.append(c.status())
    c.call("pause", c.id)
    seen.append(c.status())
    c.call("resume", c.id)
    seen.append(c.status())
    c.call("kill", c.id, "KILL")
    c.wait_for("stopped")
    seen.append(c.status())
    c.call("delete", c.id)
    seen.append(c.status())
    return {f"status.{i}": s for i, s in enumerate(seen)}


@case(facts="start|state", start="refused", state="stopped")
def start_twice_is_refused(c):
    c.args("/bin/sleep", "60")
    c.begin()
    facts = {"start": "refused" if c.call("start", c.id, check=False).returncode else "works"}
    c.call("kill", c.id, "KILL")
    c.wait_for("stopped")
    facts["state"] = c.status()
    return facts


@case(facts="second|first", second="refused", first="running")
def create_twice_is_refused(c):
    c.args("/bin/sleep", "60")
    c.begin()
    second = c.call("create", "--bundle", c.bundle, c.id, check=False).returncode
    return {"second": "refused" if second else "works", "first": c.status()}


@case(facts="delete|kill", delete__running="refused", delete__missing="refused", delete__missing_force="works", kill__stopped="refused")
def refusals_of_verbs(c):
    c.args("/bin/sleep", "60")
    c.begin()
    facts = {}
    word = lambda done: "refused" if done.returncode else "works"  # noqa: E731
    facts["delete.running"] = word(c.call("delete", c.id, check=False))
    c.call("kill", c.id, "9")
    c.wait_for("stopped")
    facts["kill.stopped"] = word(c.call("kill", c.id, "9", check=False))
    c.call("delete", c.id)
    facts["delete.missing"] = word(c.call("delete", c.id, check=False))
    facts["delete.missing_force"] = word(c.call("delete", "--force", c.id, check=False))
    return facts


@case(facts="signal", signal__TERM="15", signal__10="10", signal__SIGUSR2="12")
def kill_by_name_and_number(c):
    c.sh("trap 'echo got 15' TERM; trap 'echo got 10' USR1; trap 'echo got 12' USR2; echo ready; while :; do sleep 0.05; done")
    c.begin()
    c.wait_log("ready")
    facts = {}
    for name, number in (("TERM", "15"), ("10", "10"), ("SIGUSR2", "12")):
        c.call("kill", c.id, name)
        c.wait_log("got " + number)
        facts["signal." + name] = number
    return facts


@case(facts="pidfile|state", pidfile="same", state__bundle="True", state__annotation="value")
def state_document(c):
    c.config["annotations"] = {"org.example.key": "value"}
    c.args("/bin/sleep", "60")
    c.create("--pid-file", c.bundle + "/pid")
    state = c.state()
    pid = open(c.bundle + "/pid").read()
    return {"pidfile": "same" if pid == str(state["pid"]) else f"{pid!r}, state {state['pid']}",
            "state.bundle": str(state["bundle"] == c.bundle), "state.annotation": state["annotations"]["org.example.key"],
            "state.id": str(state["id"] == c.id), "state.version": str(bool(state["ociVersion"]))}


HOOK = """#!/bin/sh
state=$(cat)
status=$(echo "$state" | sed -n 's/.*"status": *"\\([a-z]*\\)".*/\\1/p')
root=$(readlink /proc/self/ns/mnt)
echo "hook.$1=$2 status:$status env:$A" >> "$3"
"""


@case(facts="hook|order", order="prestart,createRuntime,createContainer,startContainer,process,poststart,poststop")
def hooks(c):
    """Every kind at its moment, in order, with the state on standard input and its own environment only."""
    trace = c.bundle + "/trace"
    open(trace, "w").close()
    script = c.put("/hook", HOOK, 0o755)
    c.mount("/trace", "bind", trace, "bind")
    c.config["hooks"] = {}
    for kind in ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"):
        inside = kind == "startContainer"
        c.config["hooks"][kind] = [{"path": "/hook" if inside else script, "args": ["hook", kind, "first", "/trace" if inside else trace],
                                    "env": ["PATH=/bin:/usr/bin", "A=" + kind], "timeout": 10}]
    c.config["hooks"]["createRuntime"].append({"path": script, "args": ["hook", "createRuntime", "second", trace], "env": ["PATH=/bin:/usr/bin"]})
    for applet in ("sed",):
        os.symlink("busybox", c.rootfs + "/bin/" + applet)
    c.sh("echo process=ran >> /trace; sleep 0.5")
    c.begin()
    c.wait_for("stopped")
    c.call("delete", c.id)
    lines = open(trace).read().splitlines()
    facts = {}
    order = []
    for line in lines:
        name, _, value = line.partition("=")
        word = name.removeprefix("hook.")
        if word not in order:
            order.append(word)
        facts[name if name not in facts else name + ".2"] = value
    facts["order"] = ",".join(order)
    # The process and poststart run at the same time.
    facts["order"] = facts["order"].replace("poststart,process", "process,poststart")
    return facts


@case(refused="yes", left="none", process="not run")
def hook_that_fails(c):
    c.config["hooks"] = {"createRuntime": [{"path": "/bin/false", "args": ["false"]}]}
    c.put("/marker")
    c.sh("rm /marker")
    facts = refused(c)
    facts["process"] = "not run" if os.path.exists(c.rootfs + "/marker") else "run"
    return facts


@case(refused="yes", left="none")
def hook_that_takes_too_long(c):
    c.config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "30"], "timeout": 1}]}
    began = time.monotonic()
    facts = refused(c)
    facts["refused"] = "late" if time.monotonic() - began > 10 else facts["refused"]
    return facts


@case(facts="create|start", create="works", start="refused")
def process_absent(c):
    """Legal until start."""
    del c.config["process"]
    try:
        c.create()
    except Refused:
        return {"create": "refused", "start": "refused"}
    return {"create": "works", "start": "refused" if c.call("start", c.id, check=False).returncode else "works"}


@case(uid="0 0 0")
def unknown_members_are_ignored(c):
    c.config["zzz"] = {"a": [1, None]}
    c.process["zzz"] = True
    c.linux["zzz"] = "x"
    c.linux["resources"] = {"zzz": {}}
    return c.run()


@case(refused="yes", left="none")
def version_2_is_refused(c):
    c.config["ociVersion"] = "2.0.0"
    return refused(c)


@case(facts="uid|mount./$", uid="0 0 0")
def no_pivot(c):
    c.args("/bin/facts", "ids")
    return c.run("--no-pivot")


# --- exec

def running(c):
    c.args("/bin/sleep", "60")
    c.begin()


@case(uid="0 0 0", seccomp="0", session__leader="1", keyring="~_ses.ID$")
def exec_plain(c):
    running(c)
    return c.exec("/bin/facts")


@case(env__A="b", env__PATH="/bin", cwd="/tmp", uid="12 12 12", gid="34 34 34")
def exec_options(c):
    running(c)
    return c.exec("/bin/facts", options=("--env", "A=b", "--cwd", "/tmp", "--user", "12:34"))


@case(facts="ok", ok__12x="refused", ok__x="refused", ok__big="refused", ok__minus="refused", ok__empty_gid="refused")
def exec_user_is_strict(c):
    """CVE-2026-30892: what is no number is an error, not user 0."""
    running(c)
    word = lambda user: "refused" if c.call("exec", "--user", user, c.id, "/bin/true", check=False).returncode else "works"  # noqa: E731
    return {"ok.12x": word("12x"), "ok.x": word("x"), "ok.big": word("4294967296"), "ok.minus": word("-1"), "ok.empty_gid": word("12:")}


@case(uid="5 5 5", cap__Eff="0000000000000000", rlimit__NOFILE="64 128", no_new_privs="1", cap__Inh="0000000000000000")
def exec_process_file(c):
    running(c)
    process = dict(c.process, args=["/bin/facts"], user={"uid": 5, "gid": 6}, noNewPrivileges=True,
                   rlimits=[{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}])
    return c.exec(process=process)


@case(seccomp="2")
def exec_has_the_filter(c):
    c.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]}
    running(c)
    return c.exec("/bin/facts")


@case(facts="cpus", cpus="1", host=lambda: "" if os.cpu_count() > 1 else "one CPU only")
def exec_cpu_affinity(c):
    running(c)
    process = dict(c.process, args=["/bin/facts", "sched"], execCPUAffinity={"initial": "0", "final": "1"})
    return c.exec(process=process)


@case(facts="code", code__7="7", code__missing="~^(1|127|255)$", code__signal="137")
def exec_exit_codes(c):
    running(c)
    code = lambda *command: str(c.call("exec", c.id, *command, check=False).returncode)  # noqa: E731
    return {"code.7": code("/bin/sh", "-c", "exit 7"), "code.missing": code("/bin/nothing"), "code.signal": code("/bin/sh", "-c", "kill -9 $$")}


@case(facts="exec", exec="refused")
def exec_in_stopped_is_refused(c):
    running(c)
    c.call("kill", c.id, "KILL")
    c.wait_for("stopped")
    return {"exec": "refused" if c.call("exec", c.id, "/bin/true", check=False).returncode else "works"}


@case(facts="mempolicy", mempolicy="~^2 0x1$")
def memory_policy(c):
    c.linux["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0"}
    c.args("/bin/facts", "sched")
    return c.run()


@case(refused="yes", left="none", host=lambda: "resctrl is mounted here" if os.path.isdir("/sys/fs/resctrl/info") else "")
def intel_rdt_without_resctrl_is_refused(c):
    c.linux["intelRdt"] = {"closID": "berth", "l3CacheSchema": "L3:0=f"}
    return refused(c)


@case(facts="pids", pids="2")
def ps_lists_all(c):
    c.sh("sleep 60 & echo ready; wait")
    c.begin()
    c.wait_log("ready")
    return {"pids": str(len(json.loads(c.call("ps", "--format", "json", c.id).stdout)))}
