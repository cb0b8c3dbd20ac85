"""Brings a Debian kernel into the cache and makes of it what qemu boots: a kernel file, an initramfs, a module folder.

Nothing is installed: the package is downloaded by apt-get, unpacked, and its modules are read where they lie. Cache:

    <cache>/<package>/boot/vmlinuz-<version>   as unpacked        <cache>/debian     link to the package last resolved
    <cache>/<package>/lib/modules/<version>    plus depmod        <cache>/<version>.vmlinux   made by us
"""
import fcntl
import glob
import lzma
import os
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass

# What the initramfs must load before it can reach the host's root and the scratch disk (crc32c_generic is what ext4 asks
# the crypto layer for), then what nearly every test uses: loading it over 9p later costs seconds. The rest loads on demand.
EARLY = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "9pnet_virtio", "9p", "overlay", "crc32c_generic", "ext4",
         "erofs", "loop", "bridge", "br_netfilter", "veth", "vxlan", "nf_tables", "nft_chain_nat", "nft_ct", "nft_nat", "nft_masq",
         "nft_redir", "nft_fib_inet", "nft_reject_inet")
META = {"debian": "linux-image-amd64"}


class Unavailable(Exception):
    """The machine lacks something; the message names it and what would bring it."""


@dataclass
class Kernel:
    version: str
    image: str       # what qemu boots
    modules: str     # folder lib/modules/<version>, or "" when all is built in
    cache: str       # cache_folder()


def cache_folder():
    for path in (os.environ.get("BERTH_VM_CACHE"), "/var/cache/berth-tests/kernels",
                 os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../.cache/kernels")):
        if not path:
            continue
        try:
            os.makedirs(path, exist_ok=True)
        except OSError:
            continue
        if os.access(path, os.W_OK):
            return os.path.realpath(path)
    raise Unavailable("no folder for kernels can be written: set BERTH_VM_CACHE")


def resolve(name):
    """`debian`, `debian-6.12` (the newest linux-image-6.12-amd64 that apt offers) or the path of a kernel file."""
    cache = cache_folder()
    if "/" in name:
        if not os.path.isfile(name):
            raise Unavailable(f"--kernel {name}: no such file")
        image = os.path.realpath(name)
        version = version_of(image)
        beside = os.path.join(os.path.dirname(image), "../lib/modules", version)
        modules = next((os.path.realpath(m) for m in (beside, f"/lib/modules/{version}") if os.path.isdir(m)), "")
        return Kernel(version, image, modules, cache)
    if name != "debian" and not name.startswith("debian-"):
        raise Unavailable(f"--kernel {name}: want debian, debian-VERSION or the path of a kernel file")
    with open(os.path.join(cache, ".lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        link = os.path.join(cache, name)
        if not os.path.exists(link):
            download(META.get(name, f"linux-image-{name.removeprefix('debian-')}-amd64"), link, cache)
        image = glob.glob(os.path.join(os.path.realpath(link), "boot/vmlinuz-*"))[0]
        version = version_of(image)
        return Kernel(version, unwrap(image, version, cache), os.path.realpath(f"{link}/lib/modules/{version}"), cache)


def version_of(image):
    with open(image, "rb") as file:
        head = file.read(0x10000)
    if head[0x202:0x206] != b"HdrS":
        raise Unavailable(f"{image}: not an x86 kernel file (bzImage)")
    at = struct.unpack_from("<H", head, 0x20E)[0] + 0x200
    return head[at:head.index(b"\0", at)].split()[0].decode()


def unwrap(image, version, cache):
    """The ELF kernel inside a bzImage packed with xz: booting it spares an emulated CPU 2.5 s of unpacking."""
    elf = os.path.join(cache, f"{version}.vmlinux")
    if os.path.exists(elf):
        return elf
    with open(image, "rb") as file:
        data = file.read()
    offset, length = struct.unpack_from("<II", data, 0x248)     # payload_offset, payload_length of the boot protocol
    start = (data[0x1F1] + 1) * 512 + offset
    packed = data[start:start + length]
    if not packed.startswith(b"\xfd7zXZ\0"):
        return image
    write(elf, lzma.LZMADecompressor().decompress(packed))
    return elf


def download(meta, link, cache):
    for tool in ("apt-get", "dpkg-deb", "depmod"):
        if not shutil.which(tool):
            raise Unavailable(f"{tool} is missing (Debian package {'kmod' if tool == 'depmod' else tool})")
    try:
        depends = run(["apt-cache", "depends", meta], cache).splitlines()
    except Unavailable:
        depends = []
    package = next((line.split()[1] for line in depends if line.strip().startswith("Depends: linux-image-")), None)
    if not package:
        raise Unavailable(f"apt offers no package {meta}: run apt-get update, or name a kernel file by --kernel PATH")
    tree = os.path.join(cache, package)
    if not os.path.isdir(tree):
        with tempfile.TemporaryDirectory(dir=cache) as work:
            run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package], work)
            run(["dpkg-deb", "-x", glob.glob(os.path.join(work, "*.deb"))[0], os.path.join(work, "tree")], work)
            run(["depmod", "-b", os.path.join(work, "tree"), os.listdir(os.path.join(work, "tree/lib/modules"))[0]], work)
            os.rename(os.path.join(work, "tree"), tree)
    if os.path.islink(link):      # its package was removed from the cache
        os.unlink(link)
    os.symlink(package, link)


def initramfs(kernel, init):
    """The archive (bytes) that mounts the host's root: busybox, `init`, the early modules in the order of loading."""
    busybox = read(shutil.which("busybox") or "/bin/busybox")
    if b"ld-linux" in busybox[:4096]:
        raise Unavailable("busybox is not static (Debian package busybox-static)")
    files = {"init": (0o755, read(init)), "bin/busybox": (0o755, busybox)}
    for number, module in enumerate(load_order(kernel.modules)):
        data = read(os.path.join(kernel.modules, module))
        name = os.path.basename(module).split(".")[0]
        files[f"modules/{number:02}-{name}.ko"] = (0o644, lzma.decompress(data) if module.endswith(".xz") else data)
    return cpio(files)


def load_order(modules):
    if not modules:
        return []
    depends, paths = {}, {}
    for line in read(os.path.join(modules, "modules.dep")).decode().splitlines():
        path, needs = line.split(":")
        depends[path] = needs.split()
        paths[os.path.basename(path).split(".")[0].replace("-", "_")] = path
    order = []

    def add(path):
        for needed in depends[path]:
            add(needed)
        if path not in order:
            order.append(path)

    for name in EARLY:
        if name in paths:      # else it is built in
            add(paths[name])
    return order


def cpio(files):
    """An archive in the kernel's newc form. files: path to (mode, bytes); parent folders are made."""
    out = bytearray()
    folders = sorted({os.path.dirname(path) for path in files if os.path.dirname(path)})
    entries = [(path, 0o040755, b"") for path in folders]
    entries += [(path, 0o100000 | mode, data) for path, (mode, data) in files.items()]
    for inode, (path, mode, data) in enumerate(entries + [("TRAILER!!!", 0, b"")], 1):
        name = path.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        for part in (b"070701" + b"".join(b"%08x" % f for f in fields) + name, data):
            out += part + b"\0" * (-(len(out) + len(part)) % 4)
    return bytes(out)


def run(command, folder):
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Unavailable(f"{' '.join(command)}: {said[-1]}")
    return done.stdout


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, data):
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), delete=False) as file:
        file.write(data)
    os.rename(file.name, path)
