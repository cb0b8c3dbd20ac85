// The steps of a container's life through berth-oci, each a process of its own.
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "runtime/oci/cli_fixture.h"

namespace berth::runtime::oci {
namespace {

TEST_F(Life, CreateStartExecKillDelete) {
  bundle->Sh("echo started; exec sleep 1000");
  bundle->spec.annotations = {{"who", "me"}};
  bundle->Write();
  std::string id = bundle->Id("a"), pidfile = bundle->dir() + "/pid";
  ASSERT_EQ(Detached({"create", "--bundle", bundle->dir(), "--pid-file", pidfile, id}), 0) << Log();
  EXPECT_EQ(Log(), "");
  auto state = json::Parse<StateDocument>(Oci({"state", id}).out, "state");
  ASSERT_TRUE(state);
  EXPECT_EQ(state->status, "created");
  EXPECT_EQ(state->bundle, bundle->dir());
  EXPECT_EQ(state->annotations["who"], "me");
  EXPECT_EQ(ReadFile(pidfile).value_or(""), fmt::format("{}", state->pid));
  EXPECT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 1);
  EXPECT_NE(Log().find("container with id exists: " + id), std::string::npos) << Log();

  ASSERT_EQ(Detached({"start", id}), 0) << Log();
  EXPECT_EQ(StatusOf(id), "running");
  auto twice = Oci({"start", id});
  EXPECT_EQ(twice.exit_code, 1);
  EXPECT_EQ(twice.err, "berth-oci: cannot start an already running container\n");

  auto exec = Oci({"exec", "-e", "A=b", "--cwd", "/tmp", "-u", "12:34", id, "sh", "-c",
                   "echo $A; pwd; id -u; id -g; ps | grep -c '[s]leep 1000'; exit 9"});
  EXPECT_EQ(exec.out, "b\n/tmp\n12\n34\n1\n") << exec.err;
  EXPECT_EQ(exec.exit_code, 9);
  exec = Oci({"exec", id, "sh", "-c",
              "for n in pid net ipc uts mnt cgroup; do readlink /proc/self/ns/$n; readlink /proc/1/ns/$n; done; cat "
              "/proc/self/cgroup; grep -E 'CapPrm|CapBnd' /proc/self/status; ls /proc/self/fd"});
  EXPECT_EQ(exec.exit_code, 0) << exec.err;
  std::vector<std::string> lines;
  for (size_t at = 0; at < exec.out.size();) {
    size_t end = exec.out.find('\n', at);
    lines.push_back(exec.out.substr(at, end - at));
    at = end + 1;
  }
  ASSERT_GT(lines.size(), 12U);
  for (size_t i = 0; i < 12; i += 2) EXPECT_EQ(lines[i], lines[i + 1]);
  for (size_t i = 12; i < lines.size() && lines[i].find(':') != std::string::npos && !lines[i].starts_with("Cap"); ++i)
    EXPECT_TRUE(lines[i].ends_with(":/")) << lines[i];
  EXPECT_NE(exec.out.find("CapPrm:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n0\n1\n2\n3\n"), std::string::npos)
      << exec.out;
  exec = Oci({"exec", id, "nosuch"});
  EXPECT_EQ(exec.exit_code, 127);
  EXPECT_EQ(exec.err, "berth-oci: exec: \"nosuch\": executable file not found in $PATH\n");
  bundle->Put("/process.json",
              R"({"args":["sh","-c","echo $X; id -u"],"env":["X=y","PATH=/bin"],"cwd":"/","user":{"uid":5}})");
  exec = Oci({"exec", "--process", bundle->dir() + "/process.json", id});
  EXPECT_EQ(exec.out, "y\n5\n") << exec.err;
  EXPECT_EQ(Detached({"exec", "-d", "--pid-file", pidfile, id, "sleep", "900"}), 0) << Log();
  auto pids = Oci({"ps", "--format", "json", id});
  auto list = json::Parse<std::vector<int64_t>>(pids.out, "ps");
  ASSERT_TRUE(list) << pids.out;
  EXPECT_EQ(list->size(), 2U);
  EXPECT_NE(pids.out.find(ReadFile(pidfile).value_or("-")), std::string::npos);

  EXPECT_EQ(Oci({"pause", id}).exit_code, 0);
  EXPECT_EQ(StatusOf(id), "paused");
  EXPECT_NE(Oci({"exec", id, "true"}).err.find("paused"), std::string::npos);
  EXPECT_EQ(Oci({"resume", id}).exit_code, 0);
  EXPECT_EQ(StatusOf(id), "running");

  EXPECT_NE(Oci({"list"}).out.find(id), std::string::npos);
  EXPECT_EQ(Oci({"list", "-q"}).out, id + "\n");
  EXPECT_EQ(Oci({"delete", id}).err, "berth-oci: cannot delete container " + id + " that is not stopped: running\n");
  EXPECT_EQ(Oci({"kill", id, "NOSIG"}).exit_code, 1);
  EXPECT_EQ(Oci({"kill", id, "KILL"}).exit_code, 0);
  unique_fd pidfd(static_cast<int>(syscall(434, state->pid, 0)));
  EXPECT_TRUE(!pidfd || Deadline::After(std::chrono::seconds(10)).WaitFor(pidfd.get(), 1, "end"));
  EXPECT_EQ(StatusOf(id), "stopped");
  EXPECT_EQ(Oci({"kill", id}).err, "berth-oci: container not running\n");
  EXPECT_NE(Oci({"exec", id, "true"}).err.find("container not running"), std::string::npos);
  EXPECT_EQ(Oci({"start", id}).err, "berth-oci: cannot start a container that has stopped\n");
  EXPECT_EQ(Oci({"delete", id}).exit_code, 0);
  auto gone = Oci({"delete", id});
  EXPECT_EQ(gone.exit_code, 1);
  EXPECT_EQ(gone.err, "berth-oci: container \"" + id + "\" does not exist\n");
  EXPECT_EQ(Oci({"delete", "--force", id}).exit_code, 0);
  EXPECT_NE(Log().find("started\n"), std::string::npos);
}

TEST_F(Life, DeleteOfACreatedOneAndForceOnARunningOne) {
  bundle->spec.process->args = {"sleep", "1000"};
  bundle->Write();
  std::string id = bundle->Id("b");
  ASSERT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 0) << Log();
  EXPECT_EQ(Oci({"delete", id}).exit_code, 0);
  ASSERT_EQ(Detached({"run", "-d", "--bundle", bundle->dir(), id}), 0) << Log();
  EXPECT_EQ(StatusOf(id), "running");
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
}

TEST_F(Life, MissingExecutableIsCreatesError) {
  bundle->spec.process->args = {"nosuch"};
  bundle->Write();
  std::string log = bundle->dir() + "/oci.log";
  std::vector<std::string> args = {"--log",  log,        "--log-format=json", "--systemd-cgroup=false",
                                   "create", "--bundle", bundle->dir(),       bundle->Id("c")};
  EXPECT_EQ(Detached(args), 1);
  auto text = ReadFile(log).value_or("");
  EXPECT_NE(text.find(R"({"level":"error","msg":"exec: \"nosuch\": executable file not found in $PATH","time":")"),
            std::string::npos)
      << text;
}

TEST_F(Life, SharedPidNamespaceIsKilledWhole) {
  std::erase_if(bundle->spec.linux->namespaces, [](const Namespace& n) { return n.type == "pid"; });
  bundle->Sh("sleep 1000 & sleep 1001 & exec sleep 1002");
  bundle->Write();
  std::string id = bundle->Id("d");
  ASSERT_EQ(Detached({"run", "-d", "--bundle", bundle->dir(), id}), 0) << Log();
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);  // TearDown sees that the cgroups are gone: nobody is left
}

TEST_F(Life, PreservedDescriptors) {
  bundle->Put("/data", "through three");
  int fd = open((bundle->dir() + "/data").c_str(), O_RDONLY);
  bundle->Sh("cat <&3");
  bundle->Write();
  EXPECT_EQ(Detached({"run", "--preserve-fds", "1", "--bundle", bundle->dir(), bundle->Id("e")}, fd), 0);
  EXPECT_EQ(Log(), "through three");
  close(fd);
  EXPECT_EQ(Detached({"run", "--preserve-fds", "5", "--bundle", bundle->dir(), bundle->Id("e")}), 1);
}

TEST_F(Life, ConsoleSocket) {
  bundle->spec.process->terminal = true;
  bundle->spec.process->consoleSize = Box{33, 77};
  bundle->spec.process->user.uid = 1000;
  bundle->Sh("tty; stat -c %u /dev/pts/0; test -c /dev/console && echo console; sleep 1000");
  bundle->Write();
  std::string id = bundle->Id("f"), path = bundle->dir() + "/console";
  EXPECT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 1);
  EXPECT_NE(Log().find("--console-socket"), std::string::npos) << Log();
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  strcpy(address.sun_path, path.c_str());
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(listener, 1), 0);
  ASSERT_EQ(Detached({"create", "--console-socket", path, "--bundle", bundle->dir(), id}), 0) << Log();
  unique_fd connection(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  close(listener);
  char byte[64];
  iovec part{byte, sizeof byte};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ASSERT_GT(recvmsg(connection.get(), &message, MSG_CMSG_CLOEXEC), 0);
  ASSERT_NE(CMSG_FIRSTHDR(&message), nullptr);
  int master;
  memcpy(&master, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof master);
  unique_fd owned(master);
  ASSERT_EQ(Oci({"start", id}).exit_code, 0);
  std::string text;
  while (text.find("console\r\n") == std::string::npos) {
    ASSERT_TRUE(Deadline::After(std::chrono::seconds(20)).WaitFor(master, 1, "output")) << text;
    char buffer[256];
    ssize_t n = read(master, buffer, sizeof buffer);
    ASSERT_GT(n, 0) << text;
    text.append(buffer, static_cast<size_t>(n));
  }
  EXPECT_EQ(text, "/dev/pts/0\r\n1000\r\nconsole\r\n");
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
}

TEST_F(Life, CgroupLimitsV1) {
  const cgroup::Layout* layout = *cgroup::Host();
  if (!layout->V1("memory") || !layout->V1("pids") || !layout->V1("cpu"))
    GTEST_SKIP() << "needs memory, pids and cpu as cgroup version 1";
  Resources r;
  r.memory = Memory{.limit = 64 << 20, .reservation = 32 << 20};
  r.cpu = Cpu{512, 50000, 25000, "0", ""};
  r.pids = Pids{33};
  r.devices = {{false, "a", "rwm", {}, {}}, {true, "c", "r", 10, 229}};
  bundle->spec.linux->resources = r;
  bundle->spec.process->args = {"sleep", "1000"};
  bundle->Write();
  std::string id = bundle->Id("g");
  ASSERT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 0) << Log();
  auto value = [&](const char* controller, const char* file) {
    return ReadFile(layout->V1(controller)->mount + "/berth-oci-" + id + "/" + file).value_or("missing");
  };
  EXPECT_EQ(value("memory", "memory.limit_in_bytes"), "67108864\n");
  EXPECT_EQ(value("memory", "memory.soft_limit_in_bytes"), "33554432\n");
  EXPECT_EQ(value("cpu", "cpu.shares"), "512\n");
  EXPECT_EQ(value("cpu", "cpu.cfs_quota_us"), "25000\n");
  EXPECT_EQ(value("cpu", "cpu.cfs_period_us"), "50000\n");
  EXPECT_EQ(value("cpuset", "cpuset.cpus"), "0\n");
  EXPECT_EQ(value("pids", "pids.max"), "33\n");
  EXPECT_NE(value("devices", "devices.list").find("c 10:229 r\n"), std::string::npos);
  EXPECT_EQ(value("devices", "devices.list").find("a *:*"), std::string::npos);
  for (const cgroup::Hierarchy& h : layout->v1)
    EXPECT_NE(ReadFile(h.mount + "/berth-oci-" + id + "/tasks").value_or(""), "") << h.mount;
  bundle->Put("/update.json", R"({"memory":{"limit":100663296},"pids":{"limit":-1}})");
  EXPECT_EQ(Oci({"update", "--resources", bundle->dir() + "/update.json", id}).exit_code, 0);
  EXPECT_EQ(value("memory", "memory.limit_in_bytes"), "100663296\n");
  EXPECT_EQ(value("pids", "pids.max"), "max\n");
  EXPECT_EQ(Oci({"start", id}).exit_code, 0);
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
}

TEST_F(Life, DeviceRulesHold) {
  auto out = RunSh("mknod /dev/disk b 1 0; head -c 1 /dev/disk; head -c 1 /dev/zero | wc -c");
  EXPECT_NE(out.err.find("Operation not permitted"), std::string::npos) << out.err;
  EXPECT_EQ(out.out, "1\n");
}

TEST_F(Life, CgroupV2View) {
  v2_view = true;
  auto out = RunSh(
      "cat /proc/self/mountinfo | grep cgroup2; mknod /dev/disk b 1 0; head -c 1 /dev/disk; head -c 1 /dev/zero | wc "
      "-c");
  EXPECT_NE(out.out.find(" / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2"), std::string::npos)
      << out.out << out.err;
  EXPECT_NE(out.err.find("/dev/disk: Operation not permitted"), std::string::npos) << out.err;
  EXPECT_TRUE(out.out.ends_with("1\n"));
  bundle->spec.process->args = {"sleep", "1000"};
  bundle->Write();
  std::string id = bundle->Id("h");
  ASSERT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 0) << Log();
  EXPECT_EQ(Oci({"start", id}).exit_code, 0);
  auto exec = Oci({"exec", id, "sh", "-c", "ps | grep -c '[s]leep 1000'; head -c 1 /dev/disk"});
  EXPECT_EQ(exec.out, "1\n");
  EXPECT_EQ(Oci({"pause", id}).exit_code, 0);
  EXPECT_EQ(StatusOf(id), "paused");
  EXPECT_EQ(Oci({"resume", id}).exit_code, 0);
  EXPECT_EQ(Oci({"kill", "--all", id, "KILL"}).exit_code, 0);
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
}

TEST_F(Life, InterruptedCreationCanBeDeleted) {
  bundle->spec.process->args = {"true"};
  bundle->Write();
  std::string id = bundle->Id("i");
  ASSERT_EQ(mkdir((bundle->state() + "/" + id).c_str(), 0700), 0);
  bundle->Put("/state/" + id + "/config.json", json::ToText(bundle->spec, json::Omit::kEmpty));
  ASSERT_TRUE(cgroup::Create(**cgroup::Host(), "/berth-oci-" + id));
  EXPECT_EQ(Oci({"delete", id}).exit_code, 1);
  EXPECT_NE(Oci({"state", id}).err.find("is still being created"), std::string::npos);
  EXPECT_EQ(Oci({"delete", "--force", id}).exit_code, 0);
}

}  // namespace
}  // namespace berth::runtime::oci
