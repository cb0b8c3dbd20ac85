"""One attack a CVE, and how berth-oci would have to be written to fall to it.

An attack gets a Container (tests/oci/bundle.py) and returns (fell, words): whether it worked, and what was seen. `weaken` are
edits of the source, (file, text, replacement): the test that does not see the weakened build fall is worth nothing.
"""
import os

from bundle import Container, Listener, Refused

ATTACKS = []

TREE, PROCESS, EXECUTOR = "runtime/init/tree.cc", "runtime/init/process.cc", "runtime/init/executor.cc"
MOUNTS, MAIN = "runtime/oci/planner_mounts.cc", "cmd/berth-oci/main.cc"


def attack(cves, weaken):
    def add(function):
        ATTACKS.append({"name": function.__name__, "cves": cves, "weaken": weaken, "run": function, "about": (function.__doc__ or "").strip()})
        return function
    return add


def tried(c, run):
    """What the container printed, or None and the runtime's refusal."""
    try:
        return run(), ""
    except Refused as e:
        return None, "refused: " + e.text.replace("berth-oci: ", "").replace(c.bundle, "BUNDLE")[:110]


@attack("2019-5736", [(MAIN, "  call.host.stub = init::SealExecutable(", "  return {};\n  call.host.stub = init::SealExecutable(")])
def runtime_executable(c):
    """The entry point is /proc/self/exe: it must not be a file of the host."""
    c.args("/proc/self/exe", "--version")
    c.write()
    done = c.call("run", "--bundle", c.bundle, c.id, check=False)
    fell = "berth-oci version" in done.stdout
    return fell, "the host's executable runs inside" if fell else f"a sealed copy without a file, exit {done.returncode}"


@attack("2024-21626", [(PROCESS, "if (n < 0 || where[0] != '/')", "if (n < -4096 && where[0] != '/')"),
                       (PROCESS, "if (!as_user && child.plan->kind == PlanKind::kContainer) {", "if (child.sync < 0 && child.plan->kind == PlanKind::kContainer) {")])
def working_directory_outside(c):
    """cwd is a descriptor of the host that the caller left open."""
    with open(c.bundle + "/secret", "w") as f:
        f.write("host secret")
    c.process["cwd"] = "/proc/self/fd/7"
    c.sh("echo seen=$(cat ./secret)")
    fd = os.open(c.bundle, os.O_RDONLY)
    os.dup2(fd, 7, inheritable=True)
    try:
        facts, words = tried(c, lambda: c.run(pass_fds=(7,)))
    finally:
        os.close(fd)
        os.close(7)
    fell = bool(facts) and facts.get("seen") == "host secret"
    return fell, "reads the host's directory" if fell else words or "cannot read it"


# Targets looked up before pivot_root, below a descriptor of the root but with links followed as the host has them.
BEFORE_PIVOT = [
    (EXECUTOR, "    BuildTree(child);\n", ""),
    (TREE, "  if (fchdir(root) < 0) Fail(child, errno, \"enter root filesystem\");\n",
     "  BuildTree(child);\n  if (fchdir(root) < 0) Fail(child, errno, \"enter root filesystem\");\n"),
    (TREE, "return static_cast<int>(OpenAt2(AT_FDCWD, path, O_PATH | flags, resolve));",
     "return static_cast<int>(OpenAt2(child.Fd(child.plan->rootfs), *path == '/' && path[1] ? path + 1 : path, O_PATH | flags, resolve));"),
    (TREE, "    at = static_cast<int>(OpenAt2(AT_FDCWD, \"/\", O_PATH | O_DIRECTORY, 0));\n  }\n  while (at >= 0) {",
     "    at = fcntl(child.Fd(child.plan->rootfs), F_DUPFD_CLOEXEC, 3);\n  }\n  while (at >= 0) {"),
]


@attack("2021-30465, 2024-45310", BEFORE_PIVOT)
def mount_point_through_a_volume(c):
    """A shared volume has a link to a directory of the host where the next mount point is to be."""
    victim = c.host_dir("victim")
    volume = c.host_dir("volume")
    os.symlink(victim, volume + "/link")
    c.mount("/vol", "bind", volume, "bind")
    c.mount("/vol/link/made", "tmpfs", "tmpfs", "size=1m")
    c.args("/bin/true")
    _, words = tried(c, c.run)
    fell = os.path.exists(victim + "/made")
    return fell, "makes a directory on the host" if fell else words or "the link is followed inside the root"


@attack("2025-31133", [(TREE, "    tree = child.Fd(child.plan->null_tree);\n    struct stat st;\n",
                        "    tree = static_cast<int>(OpenTree(AT_FDCWD, \"/dev/null\", OPEN_TREE_CLONE));\n    struct stat st;\n"),
                       (TREE, "if (tree < 0 || fstat(tree, &st) < 0 || !S_ISCHR(st.st_mode) || st.st_rdev != ((1 << 8) | 3))",
                        "if (tree < 0 || fstat(tree, &st) < 0)")])
def mask_with_a_false_null(c):
    """/dev/null of the container is a link to a file of the attacker, which then covers the masked path."""
    device = c.host_dir("dev")
    os.symlink("/evil", device + "/null")
    c.put("/evil", "evil")
    c.config["mounts"] = [m for m in c.config["mounts"] if not m["destination"].startswith("/dev")]
    c.mount("/dev", "bind", device, "bind")
    c.linux["maskedPaths"] = ["/proc/timer_list"]
    c.sh("echo seen=$(cat /proc/timer_list); echo kind=$(busybox stat -c %F /proc/timer_list)")
    facts, words = tried(c, c.run)
    fell = bool(facts) and facts.get("seen") == "evil"
    return fell, "the masked path is the attacker's file" if fell else words or f"it is a {facts.get('kind')}, empty"


@attack("2025-52565", [(PROCESS, 'MakeTarget(child, "/dev/console", true, true)', 'MakeTarget(child, "/dev/console", true, false)')])
def console_through_a_link(c):
    """/dev/console of the image is a link: the terminal must not be mounted on what it names."""
    c.process["terminal"] = True
    c.put("/target", "x")
    c.config["mounts"] = [m for m in c.config["mounts"] if m["destination"] != "/dev"]
    os.makedirs(c.rootfs + "/dev/pts")
    os.symlink("/target", c.rootfs + "/dev/console")
    c.sh("facts mounts")
    listener = Listener(c.bundle + "/console.sock")
    c.undo.append(listener.close)
    _, words = tried(c, lambda: c.create("--console-socket", listener.path))
    if words:
        return False, words
    _, fds = listener.take()
    c.start()
    output = b""
    try:
        while part := os.read(fds[0], 4096):
            output += part
    except OSError:
        pass
    os.close(fds[0])
    fell = "mount./target=devpts" in output.decode()
    return fell, "the terminal is mounted on the link's target" if fell else "not mounted there"


@attack("2025-52881, 2019-19921", [
    (TREE, "if (!(op.flags & kOpOverProc) && FilesystemMagic(target) == kProcMagic)", "if (!(op.flags & kOpOverProc) && FilesystemMagic(target) == 1)"),
    (PROCESS, "resolve | RESOLVE_BENEATH | RESOLVE_NO_XDEV", "resolve | RESOLVE_BENEATH"),
    (PROCESS, "if (FilesystemMagic(fd) != kProcMagic) Fail(", "if (FilesystemMagic(fd) == 1) Fail(")])
def setting_redirected(c):
    """A volume's link puts a file of the attacker over the sysctl that the runtime writes."""
    volume = c.host_dir("volume", catcher="")
    os.symlink("/proc/sys/net/ipv4", volume + "/link")
    c.mount("/vol", "bind", volume, "bind")
    c.mount("/vol/link/ip_forward", "bind", volume + "/catcher", "bind")
    c.linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
    c.args("/bin/true")
    _, words = tried(c, c.run)
    fell = open(volume + "/catcher").read() != ""
    return fell, "the attacker's file gets the runtime's write" if fell else words or "the sysctl is written"


UNGUARDED = [(MOUNTS, "    return guarded ? static_cast<uint32_t>(init::kOpNoSymlinks) : 0;", "    return guarded && target.empty() ? 1u : 0;")]


@attack("2026-41579", UNGUARDED)
def device_directory_is_a_link(c):
    """/dev of the image is a link: no device may be made where it leads."""
    os.rmdir(c.rootfs + "/dev")
    os.makedirs(c.rootfs + "/elsewhere")
    os.symlink("/elsewhere", c.rootfs + "/dev")
    c.config["mounts"] = [m for m in c.config["mounts"] if not m["destination"].startswith("/dev")]
    c.sh("ls /elsewhere")
    _, words = tried(c, c.run)
    made = os.listdir(c.rootfs + "/elsewhere")
    return bool(made), f"devices are made there: {', '.join(sorted(made)[:3])}" if made else words or "nothing is made there"


@attack("2026-47766", UNGUARDED)
def device_below_a_link(c):
    """A device of the configuration lies below a link in the image's /dev."""
    c.config["mounts"] = [m for m in c.config["mounts"] if not m["destination"].startswith("/dev")]
    os.makedirs(c.rootfs + "/elsewhere")
    os.symlink("/elsewhere", c.rootfs + "/dev/sub")
    c.linux["devices"] = [{"path": "/dev/sub/node", "type": "c", "major": 1, "minor": 7, "fileMode": 0o666}]
    c.args("/bin/true")
    _, words = tried(c, c.run)
    fell = os.path.exists(c.rootfs + "/elsewhere/node")
    return fell, "the device is made where the link leads" if fell else words or "not made there"


@attack("2026-30892", [(MAIN, "if (err != std::errc() || end != text.data() + text.size() || n < 0)", "if (false && (err != std::errc() || end != text.data() + text.size() || n < 0))")])
def exec_user_that_is_no_number(c):
    """exec --user with a name or rubbish must not run as somebody else."""
    c.args("/bin/sleep", "60")
    c.begin()
    for user in ("nobody", "1000x", "0x3e8"):
        facts, words = tried(c, lambda: c.exec("/bin/facts", "ids", options=("--user", user)))
        if facts is not None:
            return True, f"--user {user} runs as {facts['uid']}"
    return False, words


INHERIT = [(PROCESS, "CapSet(Split(sets.effective & permitted, (permitted | keep) & own, inheritable, data))",
            "CapSet(Split(sets.effective & permitted, (permitted | keep) & own, permitted | inheritable, data))")]


@attack("2022-24769", INHERIT)
def inheritable_at_start(c):
    """The first process must have no inheritable capability that was not asked for."""
    c.args("/bin/facts", "caps")
    held = c.run()["cap.Inh"]
    return held.strip("0") != "", f"CapInh {held}"


@attack("2022-29162, 2022-27650", INHERIT)
def inheritable_at_exec(c):
    """Nor a later one."""
    c.args("/bin/sleep", "60")
    c.begin()
    held = c.exec("/bin/facts", "caps")["cap.Inh"]
    return held.strip("0") != "", f"CapInh {held}"


@attack("2016-9962", [(EXECUTOR, "  // Before anything is joined: what shares a PID namespace with us must not read our descriptors. CVE-2016-9962.\n  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);", ""),
                      (EXECUTOR, "nothing may survive the next one.\n  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);", "nothing may survive the next one."),
                      (PROCESS, "until execve nothing may look inside.\n  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);", "until execve nothing may look inside.")])
def descriptors_of_the_joining_process(c):
    """A container looks into the process that is about to join its PID namespace, with the same ids and capabilities."""
    c.args("/bin/sleep", "60")
    c.begin()
    other = Container(c.runtime, c.program, os.path.dirname(c.bundle), c.view)
    c.undo.append(other.end)
    other.namespace("pid", f"/proc/{c.state()['pid']}/ns/pid")
    other.args("/bin/true")
    other.create()
    seen = c.exec("/bin/sh", "-c", "for p in /proc/[0-9]*; do case $(cat $p/comm) in berth*) echo found=$p; for f in $p/fd/*; do "
                  "readlink $f && break; done > /tmp/links 2> /dev/null; echo links=$(cat /tmp/links);; esac; done")
    if "found" not in seen:
        raise Refused(0, f"the joining process is not seen: {seen}")
    return seen["links"] != "", f"its descriptors are open to all: {seen['links'].split()[0]}" if seen["links"] else "its descriptors cannot be listed"


@attack("2023-28642, 2023-27561", UNGUARDED + [
    (TREE, "  int mounted = OpenTarget(child, path, O_DIRECTORY, true);\n  if (mounted < 0) FailOp(child, op, errno);\n  Reattribute",
     "  int mounted = OpenTarget(child, path, O_DIRECTORY, false);\n  if (mounted < 0) FailOp(child, op, errno);\n  Reattribute")])
def proc_is_a_link(c):
    """/proc of the image is a link: labels would be written to a false procfs."""
    os.rmdir(c.rootfs + "/proc")
    os.makedirs(c.rootfs + "/false/proc")
    os.symlink("/false/proc", c.rootfs + "/proc")
    c.args("/bin/facts", "mounts")
    facts, words = tried(c, c.run)
    fell = bool(facts) and "mount./false/proc" in facts
    return fell, "procfs is mounted where the link leads" if fell else words or "not mounted there"


@attack("2019-16884", [(TREE, "(FilesystemMagic(tree) != kProcMagic || from.st_ino != kProcRootInode))", "FilesystemMagic(tree) == 1)")])
def volume_over_proc(c):
    """A volume in place of procfs: AppArmor labels would go into its files."""
    volume = c.host_dir("volume")
    os.makedirs(volume + "/self/attr")
    c.config["mounts"] = [m for m in c.config["mounts"] if m["destination"] != "/proc"]
    c.mount("/proc", "bind", volume, "bind")
    c.sh("echo seen=$(ls /proc)")
    facts, words = tried(c, c.run)
    fell = bool(facts) and facts.get("seen") == "self"
    return fell, "the volume is /proc" if fell else words or "it is not /proc"


NOBODY = 65534


def rootless(c, *groups, before=""):
    """The runtime is run by a user without rights, who maps himself to root."""
    wrapper = c.bundle + "/rootless"
    os.makedirs(c.state_dir + "-user", exist_ok=True)
    with open(wrapper, "w") as f:
        f.write(f"#!/bin/sh\n{before}\nexec setpriv --reuid={NOBODY} --regid={NOBODY} "
                + (f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups") + f" {c.program} \"$@\"\n")
    os.chmod(wrapper, 0o755)
    c.program, c.state_dir = wrapper, c.state_dir + "-user"
    c.host("chown", "-R", f"{NOBODY}:{NOBODY}", c.rootfs, c.state_dir)
    c.namespace("user")
    c.linux["uidMappings"] = c.linux["gidMappings"] = [{"containerID": 0, "hostID": NOBODY, "size": 1}]
    for m in c.config["mounts"]:
        m["options"] = [o for o in m["options"] if o != "gid=5"]


@attack("2023-25809", [(MOUNTS, "      if (group.path.empty() || (whole && scope.user_mode)) {", "      if (group.path.empty() && mount_point.empty()) {")])
def cgroups_of_the_host(c):
    """Rootless and without a cgroup namespace, in a group that the user was given: the cgroup mount must not give it away."""
    top = "/sys/fs/cgroup/pids" if os.path.exists("/sys/fs/cgroup/pids/cgroup.procs") else "/sys/fs/cgroup"
    given = f"{top}/{c.id}-given"
    os.mkdir(given)
    c.undo.append(lambda: [os.rmdir(d) for d in (given + "/x", given) if os.path.isdir(d)])
    for name in (given, given + "/cgroup.procs"):
        os.chown(name, NOBODY, NOBODY)
    rootless(c, before=f"echo $$ > {given}/cgroup.procs")
    c.namespace("cgroup", absent=True)
    c.mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev")
    c.sh(f"for d in /sys/fs/cgroup /sys/fs/cgroup/pids /sys/fs/cgroup/{c.id}-given; do mkdir $d/x; done 2> /tmp/why; echo why=$(cat /tmp/why)")
    facts, words = tried(c, c.run)
    fell = os.path.isdir(given + "/x")
    return fell, "makes a group in the user's own group of the host" if fell else words or "not writable inside"


@attack("2014-8989", [("runtime/linux/namespaces.cc", 'WriteOnce(holder.Proc("setgroups"), "deny")', 'WriteOnce(holder.Proc("setgroups"), "allow")'),
                       ("runtime/linux/namespaces.cc", "if (err == EPERM) return RunHelper(", "if (err == EPERM && !group) return RunHelper(")])
def groups_that_deny(c):
    """A file denies a group; who has the group must not get at it by dropping it where he is root."""
    secret = c.put("/secret", "secret", 0o604)
    rootless(c, 4711)
    os.chown(secret, 0, 4711)
    c.args("/bin/facts", "ids")
    facts, words = tried(c, c.run)
    if facts is None:
        return True, f"without deny not even the kernel lets it run ({words})"
    return facts["setgroups"] != "deny", f"setgroups is {facts['setgroups']}"
