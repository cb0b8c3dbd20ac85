// What a request becomes: one golden file a case. BERTH_UPDATE_GOLDEN=1 writes them anew.
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/testing.h"
#include "pods/capabilities.h"
#include "pods/core.h"
#include "pods/files.h"
#include "pods/host_paths.h"
#include "pods/rootfs.h"
#include "pods/security.h"
#include "pods/users.h"
#include "pods/validate.h"

namespace berth::pods {
namespace {

using berth::testing::IsErr;
using berth::testing::IsOk;
using berth::testing::TempDir;

struct Case {
  PodState pod;
  ContainerSpec container;
  images::Image image;
  ResolvedUser user;
  std::string home = "/";
  bool v2 = true;
  std::vector<runtime::oci::Device> devices;

  Case() {
    pod.id = PodId(std::string(64, 'a'));
    pod.spec.name = "web";
    pod.spec.name_space = "default";
    pod.spec.uid = "u1";
    container.name = "nginx";
    container.image = "nginx:1";
    image.config.entrypoint = {"/entry"};
    image.config.cmd = {"serve"};
    image.config.env = {"LANG=C"};
    user.groups = {0};
  }
  Result<runtime::oci::Spec> Make() const {
    return MakeOciSpec({.pod = pod,
                        .container = container,
                        .image = image,
                        .user = user,
                        .home = home,
                        .pod_dir = "/var/lib/berth/pods/a/etc",
                        .cgroup = "/berth/a/c",
                        .cgroup_v2 = v2,
                        .devices = devices,
                        .hostname = "web",
                        .seccomp = {}});
  }
};

void Golden(const std::string& name, const Case& c) {
  auto spec = c.Make();
  ASSERT_TRUE(IsOk(spec)) << name;
  std::string text = json::SerializePretty(json::ToValue(*spec, json::Omit::kEmpty)) + "\n";
  std::string path = std::string(::getenv("BERTH_SOURCE_DIR") ?: ".") + "/pods/testdata/oci_" + name + ".json";
  if (::getenv("BERTH_UPDATE_GOLDEN") != nullptr) {
    ASSERT_TRUE(IsOk(WriteFileAtomic(path, text)));
  }
  auto want = ReadFile(path);
  ASSERT_TRUE(IsOk(want));
  EXPECT_EQ(text, *want) << path;
}

TEST(OciSpecTest, Plain) { Golden("plain", Case()); }

TEST(OciSpecTest, Full) {
  Case c;
  c.v2 = false;
  c.home = "/home/app";
  c.user = {.uid = 1000, .gid = 1000, .groups = {1000, 50000}};
  c.image.config.working_dir = "/app";
  c.image.config.env = {"LANG=C", "PATH=/app/bin", "HOSTNAME=old", "SAME=image"};
  auto& s = c.container;
  s.args = {"--port", "80"};
  s.env = {"SAME=first", "SAME=user", "EMPTY="};
  s.tty = true;
  s.read_only_rootfs = true;
  s.no_new_privileges = true;
  s.add_capabilities = {"NET_ADMIN", "cap_sys_time"};
  s.drop_capabilities = {"MKNOD"};
  s.namespaces.pid = Namespace::kPod;
  s.mounts = {
      {.container_path = "/data/deep/dir", .host_path = "/srv/deep", .read_only = true, .recursive_read_only = true},
      {.container_path = "/data/", .host_path = "/srv/data", .propagation = Propagation::kHostToContainer},
      {.container_path = "/etc/hosts", .host_path = "/srv/hosts", .read_only = true},
      {.container_path = "/dev/shm", .host_path = "/srv/shm"}};
  s.resources.cpu_shares = 512;
  s.resources.cpu_quota = 50000;
  s.resources.cpu_period = 100000;
  s.resources.memory_limit = 1 << 28;
  s.resources.pids_limit = 100;
  s.resources.oom_score_adj = 500;
  s.resources.cpuset_cpus = "0-1";
  s.resources.hugepages = {{"2MB", 0}, {"1GB", 1 << 30}};
  s.resources.unified = {{"memory.high", "1000"}};
  s.devices = {{.host_path = "/dev/fuse", .container_path = "/dev/fuse", .permissions = "rw"}};
  c.devices = {{.type = "c", .path = "/dev/fuse", .major = 10, .minor = 229, .fileMode = 0666, .uid = 0, .gid = 0}};
  Golden("full", c);
}

TEST(OciSpecTest, Privileged) {
  Case c;
  c.pod.spec.privileged = c.container.privileged = true;
  c.pod.spec.namespaces.network = Namespace::kNode;
  c.container.namespaces.pid = Namespace::kNode;
  c.container.mounts = {{.container_path = "/host", .host_path = "/", .propagation = Propagation::kBidirectional}};
  c.container.resources.unified = {{"memory.oom.group", "1"}};
  Golden("privileged", c);
}

TEST(OciSpecTest, CommandAndArguments) {
  auto args = [](auto change) {
    Case c;
    change(c);
    auto spec = c.Make();
    return spec ? spec->process->args : std::vector<std::string>{spec.error().what};
  };
  using V = std::vector<std::string>;
  EXPECT_EQ(args([](Case&) {}), (V{"/entry", "serve"}));
  EXPECT_EQ(args([](Case& c) { c.container.args = {"x"}; }), (V{"/entry", "x"}));
  EXPECT_EQ(args([](Case& c) { c.container.command = {"/my"}; }), (V{"/my"}));
  EXPECT_EQ(args([](Case& c) {
              c.container.command = {"/my"};
              c.container.args = {"x"};
            }),
            (V{"/my", "x"}));
  EXPECT_EQ(args([](Case& c) { c.image.config.entrypoint.clear(); }), (V{"serve"}));
  Case none;
  none.image.config = {};
  EXPECT_TRUE(IsErr(none.Make(), Code::kInvalidArgument, "command"));
}

TEST(OciSpecTest, Limits) {
  Case c;
  c.container.resources.memory_limit = 100;
  EXPECT_EQ(c.Make()->linux->resources->memory->swap, 100);  // none by default
  c.container.resources.memory_swap = -1;
  EXPECT_EQ(c.Make()->linux->resources->memory->swap, -1);
  c.container.resources.memory_swap = 300;
  EXPECT_EQ(c.Make()->linux->resources->memory->swap, 300);
  c.container.resources.memory_swap = 99;
  EXPECT_TRUE(IsErr(c.Make(), Code::kInvalidArgument, "memory_swap"));
  c.container.resources = {};
  c.container.resources.memory_swap = 300;
  EXPECT_TRUE(IsErr(c.Make(), Code::kInvalidArgument, "memory_limit"));
}

TEST(OciSpecTest, GivenPathListsReplaceTheDefaults) {
  Case c;
  c.container.masked_paths = std::vector<std::string>{"/bin/ls"};
  c.container.readonly_paths = std::vector<std::string>{};
  auto spec = c.Make();
  EXPECT_EQ(spec->linux->maskedPaths, std::vector<std::string>{"/bin/ls"});
  EXPECT_TRUE(spec->linux->readonlyPaths.empty());
}

TEST(OciSpecTest, Capabilities) {
  ContainerSpec s;
  EXPECT_EQ(MakeCapabilities(s)->bounding.size(), 14u);
  s.drop_capabilities = {"all"};
  s.add_capabilities = {"CHOWN"};
  EXPECT_EQ(MakeCapabilities(s)->bounding, std::vector<std::string>{"CAP_CHOWN"});
  s.drop_capabilities = {"CHOWN"};
  s.add_capabilities = {"ALL"};
  auto all = MakeCapabilities(s);
  EXPECT_GE(all->bounding.size(), 38u);
  EXPECT_EQ(std::count(all->bounding.begin(), all->bounding.end(), "CAP_CHOWN"), 0);
  EXPECT_TRUE(all->inheritable.empty());
  s = {};
  s.ambient_capabilities = {"NET_BIND_SERVICE"};
  EXPECT_EQ(MakeCapabilities(s)->ambient, std::vector<std::string>{"CAP_NET_BIND_SERVICE"});
  s.ambient_capabilities = {"SYS_ADMIN"};
  EXPECT_TRUE(IsErr(MakeCapabilities(s), Code::kInvalidArgument, "ambient_capabilities"));
}

TEST(SecurityTest, Profiles) {
  TempDir dir;
  ContainerSpec s;
  EXPECT_FALSE(LoadSeccomp(s, "")->has_value());
  s.seccomp.kind = "unconfined";
  EXPECT_FALSE(LoadSeccomp(s, "")->has_value());
  s.seccomp.kind = "default";
  auto builtin = LoadSeccomp(s, "");
  ASSERT_TRUE(IsOk(builtin));
  EXPECT_EQ((*builtin)->defaultAction, "SCMP_ACT_ERRNO");
  ASSERT_TRUE(IsOk(WriteFileAtomic(dir / "p.json", R"({"defaultAction":"SCMP_ACT_ALLOW"})")));
  EXPECT_EQ((*LoadSeccomp(s, dir / "p.json"))->defaultAction, "SCMP_ACT_ALLOW");
  s.seccomp = {.kind = "localhost", .path = dir / "p.json"};
  EXPECT_EQ((*LoadSeccomp(s, ""))->defaultAction, "SCMP_ACT_ALLOW");
  s.seccomp.path = dir / "missing.json";
  EXPECT_TRUE(IsErr(LoadSeccomp(s, ""), Code::kNotFound, "missing.json"));
  s.privileged = true;
  EXPECT_FALSE(LoadSeccomp(s, "")->has_value());

  SecurityProfile armour{.kind = "localhost", .path = "my"};
  EXPECT_TRUE(IsErr(CheckAppArmor(armour, dir.path()), Code::kFailedPrecondition, "without AppArmor"));
  ASSERT_TRUE(IsOk(MakeDirs(dir / "kernel/security/apparmor")));
  ASSERT_TRUE(IsOk(WriteFileAtomic(dir / "kernel/security/apparmor/profiles", "other (enforce)\nmy (complain)\n")));
  EXPECT_TRUE(IsOk(CheckAppArmor(armour, dir.path())));
  armour.path = "m";
  EXPECT_TRUE(IsErr(CheckAppArmor(armour, dir.path()), Code::kFailedPrecondition, "not loaded"));
}

class UsersTest : public ::testing::Test {
 protected:
  TempDir dir;
  unique_fd root;
  void SetUp() override {
    ASSERT_TRUE(IsOk(MakeDirs(dir / "etc")));
    Write("passwd",
          "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken line\nwww-data:x:33:33::/var/www:/bin/false\n"
          "app:x:1000:1000::/home/app:/bin/sh\n1002:x:5000:5000::/odd:/bin/sh\n");
    Write("group", "root:x:0:\nwww-data:x:33:\nextra:x:50000:app,other\nteam:x:70:app\n");
    root = Open(dir.path(), O_PATH | O_DIRECTORY).value();
  }
  void Write(const char* name, const std::string& text) {
    ASSERT_TRUE(IsOk(WriteFileAtomic(dir / "etc" + "/" + name, text)));
  }
  Result<UserAnswer> Resolve(const std::string& user) {
    return ResolveUser(root.get(), {.user = user, .uid = {}, .gid = {}, .groups = {}, .strict_groups = false});
  }
};

TEST_F(UsersTest, Forms) {
  struct {
    const char* user;
    uint32_t uid, gid;
    const char* home;
  } cases[] = {{"", 0, 0, "/root"},         {"www-data", 33, 33, "/var/www"}, {"1000", 1000, 1000, "/home/app"},
               {"4321", 4321, 0, "/"},      {"1003:1004", 1003, 1004, "/"},   {"app:team", 1000, 70, "/home/app"},
               {"1002", 5000, 5000, "/odd"}};
  for (const auto& c : cases) {
    auto r = Resolve(c.user);
    ASSERT_TRUE(IsOk(r)) << c.user;
    EXPECT_EQ(r->user.uid, c.uid) << c.user;
    EXPECT_EQ(r->user.gid, c.gid) << c.user;
    EXPECT_EQ(r->home, c.home) << c.user;
    EXPECT_EQ(r->user.groups[0], c.gid) << c.user;
  }
  EXPECT_TRUE(IsErr(Resolve("nobody"), Code::kInvalidArgument, "nobody"));
  EXPECT_TRUE(IsErr(Resolve("app:nogroup"), Code::kInvalidArgument, "nogroup"));
  EXPECT_TRUE(IsErr(Resolve("app:"), Code::kInvalidArgument, "colon"));
  EXPECT_TRUE(IsErr(Resolve("99999999999"), Code::kInvalidArgument));
  EXPECT_TRUE(IsErr(Resolve("12x"), Code::kInvalidArgument));
}

TEST_F(UsersTest, Groups) {
  UserRequest r{.user = {}, .uid = 1000, .gid = {}, .groups = {1234, 1234}, .strict_groups = false};
  EXPECT_EQ(ResolveUser(root.get(), r)->user.groups, (std::vector<uint32_t>{1000, 1234, 50000, 70}));
  r.strict_groups = true;
  EXPECT_EQ(ResolveUser(root.get(), r)->user.groups, (std::vector<uint32_t>{1000, 1234}));
  r.gid = 9;
  EXPECT_EQ(ResolveUser(root.get(), r)->user.groups, (std::vector<uint32_t>{9, 1234}));
  r.groups = {-1};
  EXPECT_TRUE(IsErr(ResolveUser(root.get(), r), Code::kInvalidArgument, "supplemental_groups"));
  r = {.user = {}, .uid = -5, .gid = {}, .groups = {}, .strict_groups = false};
  EXPECT_TRUE(IsErr(ResolveUser(root.get(), r), Code::kInvalidArgument, "run_as_user"));
}

TEST_F(UsersTest, HostileFiles) {
  ASSERT_EQ(::unlink((dir / "etc/passwd").c_str()), 0);
  EXPECT_EQ(Resolve("7")->user.uid, 7u);  // missing
  // A link that points out of the image is followed inside it.
  ASSERT_EQ(::symlink("/../../../../etc/real", (dir / "etc/passwd").c_str()), 0);
  ASSERT_TRUE(IsOk(WriteFileAtomic(dir / "etc/real", "in:x:5:6::/in:\n")));
  EXPECT_EQ(Resolve("in")->user.uid, 5u);
  ASSERT_EQ(::unlink((dir / "etc/passwd").c_str()), 0);
  ASSERT_EQ(::symlink("passwd", (dir / "etc/passwd").c_str()), 0);
  EXPECT_EQ(Resolve("7")->user.uid, 7u);  // a loop
  ASSERT_EQ(::unlink((dir / "etc/passwd").c_str()), 0);
  ASSERT_EQ(::mkfifo((dir / "etc/passwd").c_str(), 0600), 0);
  EXPECT_TRUE(IsErr(Resolve("7"), Code::kInvalidArgument, "regular file"));
  ASSERT_EQ(::unlink((dir / "etc/passwd").c_str()), 0);
  Write("passwd", std::string(2 << 20, 'x'));
  EXPECT_TRUE(IsErr(Resolve("7"), Code::kInvalidArgument, "larger"));
  Write("passwd", std::string("\0:\0:::::::\n::::::\na:b:c:d:e:f\nx:x:-1:1::/:\nx:x:4294967295:1::/:\n", 60));
  EXPECT_TRUE(IsErr(Resolve("x"), Code::kInvalidArgument, "no such user"));
}

TEST(RootfsTest, MakesDirectoriesInside) {
  TempDir dir;
  ASSERT_TRUE(IsOk(MakeDirs(dir / "root")));
  ASSERT_EQ(::symlink("/../../out", (dir / "root/link").c_str()), 0);
  auto root = Open(dir / "root", O_PATH | O_DIRECTORY).value();
  EXPECT_TRUE(IsOk(MakeDirInRoot(root.get(), "/a/b")));
  EXPECT_TRUE(Exists(dir / "root/a/b"));
  ASSERT_TRUE(IsOk(MakeDirs(dir / "root/out")));
  EXPECT_TRUE(IsOk(MakeDirInRoot(root.get(), "/link/c")));
  EXPECT_TRUE(Exists(dir / "root/out/c"));
  EXPECT_FALSE(Exists(dir / "out"));
  EXPECT_TRUE(IsErr(MakeDirInRoot(root.get(), "/x/../y"), Code::kInvalidArgument));
}

TEST(FilesTest, Contents) {
  PodState pod;
  pod.spec.name = "web";
  pod.network.addresses = {{"10.89.0.5/16", ""}, {"fd00::5/64", ""}};
  HostFiles host{.hostname = "node", .hosts = "1.2.3.4 node\n", .resolv_conf = "nameserver 9.9.9.9\n"};
  EXPECT_EQ(Hostname(pod.spec, host.hostname), "web");
  std::string hosts = HostsFile(pod, "web", host);
  EXPECT_NE(hosts.find("127.0.0.1\tlocalhost\n"), std::string::npos);
  EXPECT_NE(hosts.find("10.89.0.5\tweb\n"), std::string::npos);
  EXPECT_NE(hosts.find("fd00::5\tweb\n"), std::string::npos);
  EXPECT_EQ(ResolvConf(pod, host), "nameserver 9.9.9.9\n");
  pod.network.dns_servers = {"10.89.0.1"};
  EXPECT_EQ(ResolvConf(pod, host), "nameserver 10.89.0.1\n");
  pod.spec.dns = {.servers = {"8.8.8.8", "8.8.4.4"}, .searches = {"a.b", "c"}, .options = {"ndots:5"}};
  EXPECT_EQ(ResolvConf(pod, host), "search a.b c\nnameserver 8.8.8.8\nnameserver 8.8.4.4\noptions ndots:5\n");
  pod.spec.namespaces.network = Namespace::kNode;
  EXPECT_EQ(Hostname(pod.spec, host.hostname), "node");
  EXPECT_EQ(HostsFile(pod, "node", host), "1.2.3.4 node\n");
}

TEST(HostPathsTest, MountsAndDevices) {
  TempDir dir;
  ASSERT_EQ(::symlink("real", (dir / "link").c_str()), 0);
  ASSERT_TRUE(IsOk(MakeDirs(dir / "real")));
  auto mounts = ResolveMounts(
      {{.container_path = "/a", .host_path = dir / "made/deep"}, {.container_path = "/b", .host_path = dir / "link"}});
  ASSERT_TRUE(IsOk(mounts));
  EXPECT_TRUE(Exists(dir / "made/deep"));
  EXPECT_TRUE((*mounts)[1].host_path.ends_with("/real"));
  auto devices = FindDevices({{.host_path = "/dev/null", .container_path = "/dev/nil", .permissions = "r"}}, false);
  ASSERT_TRUE(IsOk(devices));
  ASSERT_EQ(devices->size(), 1u);
  EXPECT_EQ((*devices)[0].path, "/dev/nil");
  EXPECT_EQ((*devices)[0].major, 1);
  EXPECT_EQ((*devices)[0].minor, 3);
  EXPECT_TRUE(IsErr(FindDevices({{.host_path = dir / "none", .container_path = "/dev/x"}}, false), Code::kNotFound,
                    "devices[0]"));
  ASSERT_TRUE(IsOk(WriteFileAtomic(dir / "file", "")));
  EXPECT_TRUE(IsErr(FindDevices({{.host_path = dir / "file", .container_path = "/dev/x"}}, false),
                    Code::kInvalidArgument, "neither"));
  EXPECT_TRUE(IsOk(FindDevices({}, true)));
}

TEST(ValidateTest, SignalsAndCgroups) {
  EXPECT_EQ(*SignalNumber("SIGTERM", "f"), 15);
  EXPECT_EQ(*SignalNumber("quit", "f"), 3);
  EXPECT_EQ(*SignalNumber("9", "f"), 9);
  EXPECT_EQ(*SignalNumber("RTMIN+3", "f"), 37);
  for (const char* bad : {"", "SIG", "0", "65", "TERMX", "-1"})
    EXPECT_TRUE(IsErr(SignalNumber(bad, "f"), Code::kInvalidArgument, "f:")) << bad;
  EXPECT_EQ(*CleanCgroupPath("", "f"), "");
  EXPECT_EQ(*CleanCgroupPath("/", "f"), "");
  EXPECT_EQ(*CleanCgroupPath("a//b/", "f"), "/a/b");
  EXPECT_EQ(*CleanCgroupPath("/kubepods.slice/x.slice", "f"), "/kubepods.slice/x.slice");
  EXPECT_TRUE(IsErr(CleanCgroupPath("/a/..", "f"), Code::kInvalidArgument));
}

}  // namespace
}  // namespace berth::pods
