#pragma once
// For tests of berth-oci as a program: runs it on a bundle, and after each test nothing may be left.
#include <fcntl.h>
#include <sys/wait.h>

#include "runtime/oci/bundle.h"
#include "runtime/oci/container_dir.h"

namespace berth::runtime::oci {

inline std::string Program() {
  const char* build = getenv("BERTH_BUILD_DIR");
  return std::string(build ? build : ".") + "/bin/berth-oci";
}

class Cli : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why = WhyNot();
    if (why.empty() && !Exists(Program())) why = "needs " + Program();
    if (!why.empty()) GTEST_SKIP() << why;
    bundle.emplace();
    mounts_ = HostMounts();
  }
  void TearDown() override {
    if (!bundle) return;
    EXPECT_EQ(bundle->Cgroups(), std::vector<std::string>{});
    EXPECT_EQ(bundle->States(), std::vector<std::string>{});
    EXPECT_EQ(HostMounts(), mounts_);
  }

  CommandOutput Oci(std::vector<std::string> args) {
    Command c;
    c.argv = {Program(), "--root", bundle->state()};
    c.argv.insert(c.argv.end(), args.begin(), args.end());
    c.env = {"PATH=/usr/bin:/bin"};
    if (v2_view) {  // a private mount namespace whose only cgroup filesystem is version 2
      c.argv.insert(c.argv.begin(),
                    {"/usr/bin/unshare", "-m", "/bin/sh", "-c",
                     "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"", "sh"});
    }
    auto out = berth::Run(c, Deadline::After(std::chrono::seconds(60)));
    EXPECT_TRUE(out) << out.error().what;
    return out ? *out : CommandOutput{};
  }
  CommandOutput RunSh(const std::string& script, const std::string& name = "a") {
    bundle->Sh(script);
    return RunNow(name);
  }
  CommandOutput RunNow(const std::string& name = "a") {
    bundle->Write();
    return Oci({"run", "--bundle", bundle->dir(), bundle->Id(name)});
  }
  std::string Lines(const std::string& script) {
    auto out = RunSh(script);
    EXPECT_EQ(out.exit_code, 0) << out.err;
    EXPECT_EQ(out.err, "");
    return out.out;
  }

  std::optional<Bundle> bundle;
  bool v2_view = false;
  size_t mounts_ = 0;
};

class Life : public Cli {
 protected:
  // create inherits standard streams, so they must not be pipes that we read to their end.
  int Detached(std::vector<std::string> args, int extra_fd = -1) {
    std::vector<std::string> argv = {Program(), "--root", bundle->state()};
    argv.insert(argv.end(), args.begin(), args.end());
    if (v2_view)
      argv.insert(argv.begin(),
                  {"/usr/bin/unshare", "-m", "/bin/sh", "-c",
                   "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"", "sh"});
    std::vector<char*> raw;
    for (std::string& a : argv) raw.push_back(a.data());
    raw.push_back(nullptr);
    std::string log = bundle->dir() + "/log";
    pid_t pid = fork();
    if (pid == 0) {
      int in = open("/dev/null", O_RDONLY), out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
      dup2(in, 0);
      dup2(out, 1);
      dup2(out, 2);
      if (extra_fd >= 0) dup2(extra_fd, 3);
      execv(raw[0], raw.data());
      _exit(99);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
  }
  std::string Log() { return ReadFile(bundle->dir() + "/log").value_or(""); }
  std::string StatusOf(const std::string& id) {
    auto out = Oci({"state", id});
    auto doc = json::Parse<StateDocument>(out.out, "state");
    return doc ? doc->status : out.err;
  }
};

}  // namespace berth::runtime::oci
