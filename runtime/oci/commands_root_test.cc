// The commands of berth-oci and their options, each asked of the kernel.
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <thread>

#include "runtime/oci/cli_fixture.h"

namespace berth::runtime::oci {
namespace {

class Commands : public Life {
 protected:
  std::string Start(const std::string& name, const std::string& script = "exec sleep 1000") {
    bundle->Sh(script);
    bundle->Write();
    std::string id = bundle->Id(name);
    EXPECT_EQ(Detached({"run", "-d", "--bundle", bundle->dir(), id}), 0) << Log();
    return id;
  }
  unique_fd Listen(const std::string& path, int type) {
    unique_fd fd(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    strcpy(address.sun_path, path.c_str());
    EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    if (type == SOCK_STREAM) {
      EXPECT_EQ(listen(fd.get(), 4), 0);
    }
    return fd;
  }
  // A message and the descriptor with it.
  static std::pair<std::string, unique_fd> Take(int socket) {
    char text[8192];
    iovec part{text, sizeof text};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    ssize_t n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    int fd = -1;
    if (n > 0 && CMSG_FIRSTHDR(&message)) memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return {std::string(text, n > 0 ? static_cast<size_t>(n) : 0), unique_fd(fd)};
  }
};

TEST_F(Commands, HowTheKernelRunsTheProcess) {
  Process& p = *bundle->spec.process;
  p.ioPriority = IoPriority{"IOPRIO_CLASS_BE", 6};
  p.scheduler = Scheduler{"SCHED_BATCH", 7, 0, {"SCHED_FLAG_RESET_ON_FORK"}, 0, 0, 0};
  bundle->spec.linux->personality = Personality{"LINUX32", {}};
  bundle->spec.linux->memoryPolicy = MemoryPolicy{"MPOL_BIND", "0", {"MPOL_F_STATIC_NODES"}};
  std::string out =
      Lines("cat /proc/1/sched | grep policy | tr -s ' '; cat /proc/1/personality; head -1 /proc/1/numa_maps");
  EXPECT_NE(out.find("policy : 3\n"), std::string::npos) << out;
  EXPECT_NE(out.find("00000008\n"), std::string::npos) << out;
  EXPECT_NE(out.find(" bind=static:0 "), std::string::npos) << out;
  // Of a process that stays: asked from outside.
  std::string id = Start("a");
  pid_t pid = static_cast<pid_t>(json::Parse<StateDocument>(Oci({"state", id}).out, "state")->pid);
  EXPECT_EQ(syscall(SYS_ioprio_get, 1, pid), 2 << 13 | 6);
  struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t rest[3];
  } attr{};
  ASSERT_EQ(syscall(SYS_sched_getattr, pid, &attr, sizeof attr, 0), 0);
  EXPECT_EQ(attr.policy, 3U);
  EXPECT_EQ(attr.nice, 7);
  EXPECT_EQ(attr.flags & 1, 1U);
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
}

TEST_F(Commands, RealTimeAndDeadline) {
  Process& p = *bundle->spec.process;
  for (auto [policy, number] : {std::pair{"SCHED_FIFO", 1}, {"SCHED_RR", 2}}) {
    p.scheduler = Scheduler{policy, 0, 10, {}, 0, 0, 0};
    bundle->Sh("cat /proc/1/sched | grep policy | tr -s ' '");
    auto out = RunNow();
    if (out.err.find("Operation not permitted") != std::string::npos)
      GTEST_SKIP() << "needs real-time run time in the cgroup";
    EXPECT_EQ(out.out, fmt::format("policy : {}\n", number)) << out.err;
  }
  p.scheduler = Scheduler{"SCHED_NONSENSE", 0, 0, {}, 0, 0, 0};
  EXPECT_NE(RunNow().err.find("process.scheduler.policy: \"SCHED_NONSENSE\": must be one of SCHED_OTHER"),
            std::string::npos);
  p.scheduler = Scheduler{"SCHED_FIFO", 0, 100, {}, 0, 0, 0};
  EXPECT_NE(RunNow().err.find("process.scheduler.priority: 100: must be 1 to 99"), std::string::npos);
  p.scheduler.reset();
  p.ioPriority = IoPriority{"IOPRIO_CLASS_BE", 8};
  EXPECT_NE(RunNow().err.find("process.ioPriority.priority: 8: must be 0 to 7"), std::string::npos);
}

TEST_F(Commands, AffinityOfTheCallerIsNotInherited) {
  cpu_set_t before, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  if (CPU_COUNT(&before) < 2) GTEST_SKIP() << "needs two CPUs";
  int cpu = 0;
  while (!CPU_ISSET(cpu, &before)) ++cpu;
  std::string all = Lines("grep Cpus_allowed_list /proc/self/status");
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(Lines("grep Cpus_allowed_list /proc/self/status"), all);
  std::string id = Start("a");
  auto out = Oci({"exec", id, "grep", "Cpus_allowed_list", "/proc/self/status"});
  EXPECT_EQ(out.out, all);
  bundle->Put("/p.json", R"({"args":["grep","Cpus_allowed_list","/proc/self/status"],"env":["PATH=/bin"],"cwd":"/",)"
                         R"("execCPUAffinity":{"initial":"0","final":"1"}})");
  EXPECT_EQ(Oci({"exec", "--process", bundle->dir() + "/p.json", id}).out, "Cpus_allowed_list:\t1\n");
  bundle->Put("/p.json", R"({"args":["true"],"cwd":"/","execCPUAffinity":{"initial":"0-x"}})");
  EXPECT_NE(Oci({"exec", "--process", bundle->dir() + "/p.json", id}).err.find("must be a list like 0-3,7"),
            std::string::npos);
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
  EXPECT_EQ(sched_setaffinity(0, sizeof before, &before), 0);
}

// An agent that answers every notification by letting the call go on, and counts.
void Answer(int listener, std::atomic<int>* asked, std::atomic<bool>* stop) {
  while (!*stop) {
    pollfd p{listener, POLLIN, 0};
    if (poll(&p, 1, 50) <= 0) continue;
    if (p.revents & POLLHUP) return;
    seccomp_notif request{};
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request) < 0) continue;
    ++*asked;
    seccomp_notif_resp response{};
    response.id = request.id;
    response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    if (request.data.nr == SYS_mkdir || request.data.nr == SYS_mkdirat) {
      response.flags = 0;
      response.error = -ENOTUNIQ;
    }
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
  }
}

TEST_F(Commands, SeccompListenerEvenWhenItHearsOfEverythingThatSends) {
  std::string path = bundle->dir() + "/agent";
  unique_fd agent = Listen(path, SOCK_STREAM);
  // Also what a runtime would need to send the descriptor, and the exec itself.
  bundle->spec.linux->seccomp =
      Seccomp{"SCMP_ACT_ALLOW",
              {},
              {},
              {"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_TSYNC"},
              {{{"mkdir", "mkdirat", "sendmsg", "sendto", "write", "writev", "execve", "capset", "close"},
                "SCMP_ACT_NOTIFY",
                {},
                {}}},
              path,
              "for the agent"};
  bundle->Sh("mkdir /tmp/x; echo $?; exec sleep 1000");
  for (bool no_new_privileges : {false, true}) {
    bundle->spec.process->noNewPrivileges = no_new_privileges;
    bundle->Write();
    (void)WriteFileAtomic(bundle->dir() + "/log", "", 0644);
    std::string id = bundle->Id("n");
    ASSERT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 0) << Log();
    std::atomic<int> asked = 0;
    std::atomic<bool> stop = false;
    std::string text;
    std::vector<std::thread> answering;
    std::thread accepting([&] {
      for (int i = 0; i < 2; ++i) {
        unique_fd connection(accept4(agent.get(), nullptr, nullptr, SOCK_CLOEXEC));
        auto [message, fd] = Take(connection.get());
        if (text.empty()) text = message;
        char more;
        EXPECT_EQ(read(connection.get(), &more, 1), 0) << "one message, then closed";
        answering.emplace_back([fd = fd.release(), &asked, &stop] {
          Answer(fd, &asked, &stop);
          close(fd);
        });
      }
    });
    ASSERT_EQ(Detached({"start", id}), 0) << Log();
    auto exec = Oci({"exec", id, "sh", "-c", "mkdir /tmp/y || echo refused"});
    EXPECT_EQ(exec.out, "refused\n") << exec.err;
    accepting.join();
    for (int i = 0; i < 200 && Log().find("1\n") == std::string::npos; ++i) usleep(10000);
    EXPECT_NE(Log().find("Name not unique"), std::string::npos) << Log();
    EXPECT_GE(asked.load(), 4);
    auto tree = json::ParseTree(text, "agent");
    ASSERT_TRUE(tree) << text;
    EXPECT_EQ(tree->at("fds").as_array().at(0).as_string(), "seccompFd");
    EXPECT_EQ(tree->at("metadata").as_string(), "for the agent");
    EXPECT_EQ(tree->at("state").at("id").as_string(), id);
    EXPECT_EQ(tree->at("pid"), tree->at("state").at("pid"));
    EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
    stop = true;
    for (std::thread& t : answering) t.join();
  }
  EXPECT_EQ(unlink(path.c_str()), 0);
  agent.reset();
  auto out = RunNow();
  EXPECT_EQ(out.exit_code, 1);
  EXPECT_NE(out.err.find("linux.seccomp.listenerPath: connect to " + path), std::string::npos) << out.err;
  bundle->spec.linux->seccomp->listenerPath.clear();
  bundle->spec.linux->seccomp->listenerMetadata.clear();
  EXPECT_NE(RunNow().err.find("linux.seccomp.listenerPath: missing"), std::string::npos);
}

TEST_F(Commands, AFilterThatForbidsEverythingButTheExec) {
  // Killed by any call of ours between the filter and the exec.
  bundle->spec.linux->seccomp =
      Seccomp{"SCMP_ACT_KILL_PROCESS", {}, {}, {}, {{{"execve", "exit_group"}, "SCMP_ACT_ALLOW", {}, {}}}, "", ""};
  bundle->spec.process->args = {"/bin/exit"};
  bundle->Put("/exit.s", ".globl _start\n_start: mov $231,%eax\nmov $5,%edi\nsyscall\n");
  Command cc;
  cc.argv = {"cc", "-nostdlib", "-static", "-o", bundle->rootfs() + "/bin/exit", bundle->dir() + "/exit.s"};
  cc.env = {"PATH=/usr/bin:/bin"};
  auto built = berth::Run(cc, Deadline::After(std::chrono::seconds(60)));
  if (!built || built->exit_code) GTEST_SKIP() << "needs an assembler";
  for (bool nnp : {false, true})
    for (uint32_t uid : {0U, 1000U}) {
      bundle->spec.process->noNewPrivileges = nnp;
      bundle->spec.process->user.uid = uid;
      EXPECT_EQ(RunNow().exit_code, 5) << nnp << uid;
    }
}

TEST_F(Commands, NoProcessMeansNoStart) {
  bundle->spec.process.reset();
  bundle->Write();
  std::string id = bundle->Id("p");
  ASSERT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 0) << Log();
  EXPECT_EQ(StatusOf(id), "created");
  auto out = Oci({"start", id});
  EXPECT_EQ(out.exit_code, 1);
  EXPECT_NE(out.err.find("process: missing in config.json"), std::string::npos) << out.err;
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
}

TEST_F(Commands, SocketActivation) {
  bundle->Put("/data", "from the socket");
  unique_fd data(open((bundle->dir() + "/data").c_str(), O_RDONLY));
  bundle->Sh("echo $LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES $$; cat <&3");
  bundle->Write();
  setenv("LISTEN_FDS", "1", 1);
  setenv("LISTEN_FDNAMES", "web", 1);
  EXPECT_EQ(Detached({"run", "--bundle", bundle->dir(), bundle->Id("s")}, data.get()), 0);
  EXPECT_EQ(Log(), "1 1 web 1\nfrom the socket");
  setenv("LISTEN_PID", "1", 1);  // somebody else's
  EXPECT_EQ(Detached({"run", "--bundle", bundle->dir(), bundle->Id("s")}, data.get()), 1);
  EXPECT_EQ(Log().find("1 1 web 1\n", 5), std::string::npos) << Log();
  for (const char* name : {"LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"}) unsetenv(name);
}

TEST_F(Commands, NotificationsReachTheServiceManager) {
  if (!Exists("/usr/bin/python3")) GTEST_SKIP() << "needs python3";
  std::string path = bundle->dir() + "/manager";
  unique_fd manager = Listen(path, SOCK_DGRAM);
  // busybox has no datagram client for AF_UNIX: the mount shows the socket, we send from outside through it.
  std::string script = "echo $NOTIFY_SOCKET; test -S $NOTIFY_SOCKET && echo there; exec sleep 1000";
  bundle->Sh(script);
  bundle->Write();
  setenv("NOTIFY_SOCKET", path.c_str(), 1);
  std::string id = bundle->Id("n");
  ASSERT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 0) << Log();
  unsetenv("NOTIFY_SOCKET");
  pid_t pid = static_cast<pid_t>(json::Parse<StateDocument>(Oci({"state", id}).out, "state")->pid);
  std::thread sender([&] {
    std::string inside = fmt::format("/proc/{}/root/run/notify/notify.sock", pid);
    for (int i = 0; i < 500 && !Exists(inside); ++i) usleep(10000);
    unique_fd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    strcpy(address.sun_path, inside.c_str());
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    for (const char* text : {"STATUS=warming up", "READY=1\nMAINPID=77"})
      EXPECT_GT(send(fd.get(), text, strlen(text), 0), 0);
  });
  ASSERT_EQ(Detached({"start", id}), 0) << Log();  // returns when it is ready
  sender.join();
  EXPECT_EQ(Take(manager.get()).first, "STATUS=warming up\n");
  EXPECT_EQ(Take(manager.get()).first, fmt::format("READY=1\nMAINPID={}\n", pid));
  for (int i = 0; i < 500 && !Log().ends_with("there\n"); ++i) usleep(10000);  // the shell may still be at it
  EXPECT_EQ(Log(), "/run/notify/notify.sock\nthere\n");
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
}

TEST_F(Commands, PidfdSocket) {
  std::string path = bundle->dir() + "/pidfd";
  unique_fd listener = Listen(path, SOCK_STREAM);
  bundle->spec.process->args = {"sleep", "1000"};
  bundle->Write();
  std::string id = bundle->Id("p");
  ASSERT_EQ(Detached({"create", "--pidfd-socket", path, "--bundle", bundle->dir(), id}), 0) << Log();
  unique_fd connection(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  unique_fd pidfd = Take(connection.get()).second;
  std::string info = ReadFile(fmt::format("/proc/self/fdinfo/{}", pidfd.get())).value_or("");
  int64_t pid = json::Parse<StateDocument>(Oci({"state", id}).out, "state")->pid;
  EXPECT_NE(info.find(fmt::format("\nPid:\t{}\n", pid)), std::string::npos) << info;
  EXPECT_EQ(Oci({"delete", id}).exit_code, 0);
}

TEST_F(Commands, ExecIntoASubgroup) {
  const cgroup::Layout* layout = *cgroup::Host();
  if (!layout->V1("pids")) GTEST_SKIP() << "needs pids as cgroup version 1";
  std::erase_if(bundle->spec.linux->namespaces, [](const Namespace& n) { return n.type == "cgroup"; });
  std::string id = Start("c");
  std::string dir = layout->V1("pids")->mount + "/berth-oci-" + id + "/sub";
  ASSERT_EQ(mkdir(dir.c_str(), 0755), 0);
  auto own = [&](const std::string& option) {
    return Oci(
        {"exec", "--cgroup", option, id, "sh", "-c",
         "grep pids: /proc/self/cgroup | sed s/.*pids://; grep freezer: /proc/self/cgroup | sed s/.*freezer://"});
  };
  auto out = own("pids:sub");
  EXPECT_EQ(out.out, "/berth-oci-" + id + "/sub\n/berth-oci-" + id + "\n") << out.err;
  out = own("pids:/../../../sub");
  EXPECT_EQ(out.out, "/berth-oci-" + id + "/sub\n/berth-oci-" + id + "\n") << out.err;
  EXPECT_NE(own("pids:none").err.find("--cgroup"), std::string::npos);
  EXPECT_NE(own("nonsense:sub").err.find("--cgroup: nonsense"), std::string::npos);
  EXPECT_NE(own("sub").exit_code, 0) << "not there in every hierarchy";
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
}

TEST_F(Commands, UsersOfExecsAreNumbers) {
  std::string id = Start("u");
  for (const char* bad : {"root", "1x", "1:", ":1", "", "-1", "4294967296", "1:2:3", " 1", "0x10", "+5"}) {
    auto out = Oci({"exec", "-u", bad, id, "id"});
    EXPECT_EQ(out.exit_code, 1) << bad;
    EXPECT_NE(out.err.find("--user: "), std::string::npos) << bad << out.err;
  }
  EXPECT_EQ(Oci({"exec", "-u", "7", id, "sh", "-c", "id -u; id -g; id -G"}).out, "7\n0\n0\n");
  EXPECT_EQ(Oci({"exec", "-u", "7:8", "-g", "9,10", "-g", "11", id, "sh", "-c", "id -G"}).out, "8 9 10 11\n");
  EXPECT_EQ(Oci({"exec", "-u", "7", "-c", "CAP_SYS_PTRACE", id, "grep", "CapEff", "/proc/self/status"}).out,
            "CapEff:\t0000000000080000\n");
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
}

TEST_F(Commands, UpdateBySingleOptions) {
  const cgroup::Layout* layout = *cgroup::Host();
  if (!layout->V1("memory") || !layout->V1("pids") || !layout->V1("cpu") || !layout->V1("cpuset"))
    GTEST_SKIP() << "needs memory, pids, cpu and cpuset as cgroup version 1";
  std::string id = Start("u");
  auto value = [&](const char* controller, const char* file) {
    return ReadFile(layout->V1(controller)->mount + "/berth-oci-" + id + "/" + file).value_or("missing");
  };
  auto out = Oci({"update", "--memory", "96m", "--memory-reservation=64M", "--pids-limit", "55", "--cpu-share", "700",
                  "--cpu-quota", "30000", "--cpu-period=60000", "--cpuset-cpus", "0", id});
  EXPECT_EQ(out.exit_code, 0) << out.err;
  EXPECT_EQ(value("memory", "memory.limit_in_bytes"), "100663296\n");
  EXPECT_EQ(value("memory", "memory.soft_limit_in_bytes"), "67108864\n");
  EXPECT_EQ(value("pids", "pids.max"), "55\n");
  EXPECT_EQ(value("cpu", "cpu.shares"), "700\n");
  EXPECT_EQ(value("cpu", "cpu.cfs_quota_us"), "30000\n");
  EXPECT_EQ(value("cpu", "cpu.cfs_period_us"), "60000\n");
  EXPECT_EQ(value("cpuset", "cpuset.cpus"), "0\n");
  Command piped;
  piped.argv = {Program(), "--root", bundle->state(), "update", "--resources=-", id};
  piped.input = R"({"pids":{"limit":66}})";
  EXPECT_EQ(berth::Run(piped, Deadline::After(std::chrono::seconds(20)))->exit_code, 0);
  EXPECT_EQ(value("pids", "pids.max"), "66\n");
  EXPECT_NE(Oci({"update", id}).err.find("nothing to change"), std::string::npos);
  EXPECT_NE(Oci({"update", "--memory", "12q", id}).err.find("--memory: \"12q\" is not a size"), std::string::npos);
  EXPECT_NE(Oci({"update", "--cpu-share", "-3", id}).err.find("must not be negative"), std::string::npos);
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
}

TEST_F(Commands, EventsAreLinesOfJson) {
  std::string id = Start("e");
  auto out = Oci({"events", "--stats", id});
  EXPECT_EQ(out.exit_code, 0) << out.err;
  auto tree = json::ParseTree(out.out, "events");
  ASSERT_TRUE(tree) << out.out;
  EXPECT_EQ(tree->at("type").as_string(), "stats");
  EXPECT_EQ(tree->at("id").as_string(), id);
  EXPECT_GT(tree->at("data").at("pids").at("current").to_number<int64_t>(), 0);
  EXPECT_GT(tree->at("data").at("cpu").at("usage").at("total").to_number<int64_t>(), 0);
  std::thread end([&] {
    usleep(400000);
    EXPECT_EQ(Oci({"kill", id, "KILL"}).exit_code, 0);
  });
  out = Oci({"events", "--interval=100ms", id});
  end.join();
  EXPECT_EQ(out.exit_code, 0) << out.err;
  EXPECT_GE(std::count(out.out.begin(), out.out.end(), '\n'), 2) << out.out;
  EXPECT_NE(Oci({"events", "--stats", id}).err.find("container not running"), std::string::npos);
  EXPECT_EQ(Oci({"delete", id}).exit_code, 0);
}

TEST_F(Commands, OutOfMemoryIsAnEvent) {
  const cgroup::Layout* layout = *cgroup::Host();
  if (!layout->V1("memory") && !layout->V2("memory")) GTEST_SKIP() << "needs the memory controller";
  bundle->spec.linux->resources = Resources{};
  bundle->spec.linux->resources->memory = Memory{};
  bundle->spec.linux->resources->memory->limit = 16 << 20;
  std::string id = Start("o",
                         "while ! test -e /go; do sleep 0.1; done; for i in 1 2 3 4 5; do (head -c 100000000 /dev/zero | tail -c 90000000); "
                         "sleep 0.3; done");  // the watch may begin after the first
  std::thread go([&] {
    usleep(300000);
    bundle->Put("/rootfs/go", "");
  });
  auto out = Oci({"events", "--interval=1h", id});
  go.join();
  EXPECT_NE(out.out.find("{\"type\":\"oom\",\"id\":\"" + id + "\"}\n"), std::string::npos) << out.out << out.err;
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
}

TEST_F(Commands, PsAsTable) {
  if (!Exists("/bin/ps") && !Exists("/usr/bin/ps")) GTEST_SKIP() << "needs ps (package procps)";
  std::string id = Start("t");
  std::string out = Oci({"ps", id}).out;
  EXPECT_TRUE(out.starts_with("UID")) << out;
  EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), 2) << out;
  EXPECT_NE(out.find("sleep 1000"), std::string::npos);
  out = Oci({"ps", id, "-e", "-o", "pid,args"}).out;
  EXPECT_NE(out.find(" sleep 1000\n"), std::string::npos) << out;
  EXPECT_NE(Oci({"ps", "--format", "xml", id}).err.find("must be table or json"), std::string::npos);
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
}

TEST_F(Commands, GlobalOptionsStandWhereCallersPutThem) {
  bundle->Sh("cat /proc/self/cgroup | head -3");
  bundle->Write();
  std::string log = bundle->dir() + "/oci.log";
  for (const char* logging : {"--log-format=json", "--debug"})
    EXPECT_EQ(
        Oci({"--log", log, logging, "--rootless", "false", "run", "-b", bundle->dir(), bundle->Id("g")}).exit_code, 0);
  // No cgroup of its own, and no limits.
  bundle->spec.linux->resources = Resources{};
  bundle->spec.linux->resources->pids = Pids{1};
  std::erase_if(bundle->spec.linux->namespaces, [](const Namespace& n) { return n.type == "cgroup"; });
  std::erase_if(bundle->spec.mounts, [](const Mount& m) { return m.type == "cgroup"; });
  bundle->Sh("sh -c 'grep -c berth-oci /proc/self/cgroup'; true");
  bundle->Write();
  auto out = Oci({"--cgroup-manager", "disabled", "run", "-b", bundle->dir(), bundle->Id("g")});
  EXPECT_EQ(out.out, "0\n") << out.err;
  EXPECT_NE(Oci({"--cgroup-manager=magic", "list"}).err.find("must be cgroupfs, systemd or disabled"),
            std::string::npos);
  EXPECT_NE(Oci({"--rootless=maybe", "list"}).err.find("must be true, false or auto"), std::string::npos);
}

TEST_F(Commands, FeaturesNameWhatThereIs) {
  auto tree = json::ParseTree(Oci({"features"}).out, "features");
  ASSERT_TRUE(tree);
  EXPECT_EQ(tree->at("hooks").as_array().size(), 6U);
  const auto& linux = tree->at("linux");
  EXPECT_EQ(linux.at("seccomp").at("actions").as_array().size(), 9U);
  EXPECT_EQ(linux.at("seccomp").at("knownFlags").as_array().size(), 4U);
  EXPECT_EQ(linux.at("memoryPolicy").at("modes").as_array().size(), 7U);
  EXPECT_TRUE(linux.at("intelRdt").at("monitoring").as_bool());
}

TEST_F(Commands, RootlessTemplateMapsTheCaller) {
  EXPECT_EQ(Oci({"spec", "--rootless", "--bundle", bundle->dir()}).exit_code, 0);
  auto spec = json::Parse<Spec>(ReadFile(bundle->dir() + "/config.json").value_or(""), "config.json");
  ASSERT_TRUE(spec);
  EXPECT_EQ(spec->linux->uidMappings.at(0).hostID, geteuid());
  EXPECT_EQ(spec->linux->namespaces.back().type, "user");
}

}  // namespace
}  // namespace berth::runtime::oci
