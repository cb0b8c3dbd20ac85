// Hooks of every kind, run by the real program: where, when, with what, and what follows when one fails.
#include <sys/mount.h>

#include "runtime/oci/cli_fixture.h"

namespace berth::runtime::oci {
namespace {

class HooksTest : public Life {
 protected:
  void SetUp() override {
    Life::SetUp();
    if (bundle) bundle->spec.hooks.emplace();
  }
  // A hook that appends to the bundle's log of hooks: its name and what `script` prints.
  Hook Says(const std::string& name, const std::string& script, const std::string& file = "") {
    std::string log = file.empty() ? bundle->dir() + "/hooks" : file;
    return {"/bin/sh", {"sh", "-c", "{ echo " + name + "; " + script + "; } >> " + log}, {"PATH=/bin:/usr/bin"}, {}};
  }
  std::string Said() { return ReadFile(bundle->dir() + "/hooks").value_or(""); }
  std::string SaidInside() { return ReadFile(bundle->rootfs() + "/tmp/hooks").value_or(""); }
  static std::string Own(const char* type) {
    char link[64] = {};
    EXPECT_GT(readlink((std::string("/proc/self/ns/") + type).c_str(), link, sizeof link - 1), 0);
    return link;
  }
};

TEST_F(HooksTest, EachAtItsMomentInOrder) {
  Hooks& h = *bundle->spec.hooks;
  std::string root = bundle->rootfs();
  h.prestart = {Says("prestart1", "true"), Says("prestart2", "true")};
  h.createRuntime = {Says("createRuntime", "true")};
  h.createContainer = {Says("createContainer", "true")};
  h.startContainer = {Says("startContainer", "true", "/tmp/hooks"), Says("again", "true", "/tmp/hooks")};
  h.poststart = {Says("poststart", "true")};
  h.poststop = {Says("poststop", "true")};
  bundle->Sh("echo process >> /tmp/hooks; exec sleep 1000");
  bundle->Write();
  std::string id = bundle->Id("a");
  ASSERT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 0) << Log();
  EXPECT_EQ(Said(), "prestart1\nprestart2\ncreateRuntime\ncreateContainer\n");
  EXPECT_EQ(SaidInside(), "");
  ASSERT_EQ(Detached({"start", id}), 0) << Log();
  EXPECT_EQ(Said(), "prestart1\nprestart2\ncreateRuntime\ncreateContainer\npoststart\n");
  for (int i = 0; i < 200 && !SaidInside().ends_with("process\n"); ++i) usleep(10000);
  EXPECT_EQ(SaidInside(), "startContainer\nagain\nprocess\n");
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
  EXPECT_EQ(Said(), "prestart1\nprestart2\ncreateRuntime\ncreateContainer\npoststart\npoststop\n");
  EXPECT_EQ(Log(), "");
}

TEST_F(HooksTest, StateOnStandardInput) {
  Hooks& h = *bundle->spec.hooks;
  h.prestart = {Says("", "cat; echo")};
  h.createRuntime = h.createContainer = h.poststart = h.poststop = h.prestart;
  h.startContainer = {Says("", "cat; echo", "/tmp/hooks")};
  bundle->spec.annotations = {{"note", "with \"quotes\""}};
  bundle->Sh("exec sleep 1000");
  bundle->Write();
  std::string id = bundle->Id("b");
  ASSERT_EQ(Detached({"create", "--bundle", bundle->dir(), id}), 0) << Log();
  int64_t pid = json::Parse<StateDocument>(Oci({"state", id}).out, "state")->pid;
  ASSERT_EQ(Detached({"start", id}), 0) << Log();
  EXPECT_EQ(Oci({"delete", "-f", id}).exit_code, 0);
  std::string all = Said();
  std::vector<StateDocument> documents;
  auto read = [&](std::string text) {
    for (size_t at = 0; at < text.size();) {
      size_t end = text.find('\n', at);
      std::string line = text.substr(at, end - at);
      at = end + 1;
      if (line.empty()) continue;
      auto document = json::Parse<StateDocument>(line, "hook");
      ASSERT_TRUE(document) << line << document.error().what;
      EXPECT_EQ(document->id, id);
      EXPECT_EQ(document->bundle, bundle->dir());
      EXPECT_EQ(document->ociVersion, bundle->spec.ociVersion);
      EXPECT_EQ(document->annotations["note"], "with \"quotes\"");
      documents.push_back(*document);
    }
  };
  read(all);
  read(SaidInside());
  ASSERT_EQ(documents.size(), 6U) << all;
  const std::pair<const char*, int64_t> want[] = {{"created", pid}, {"creating", pid}, {"creating", 1},
                                                  {"running", pid}, {"stopped", 0},    {"created", 1}};
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(documents[i].status, want[i].first) << i;
    EXPECT_EQ(documents[i].pid, want[i].second) << i;
  }
}

TEST_F(HooksTest, NamespacesFilesAndDescriptors) {
  Hooks& h = *bundle->spec.hooks;
  std::string ask =
      "for n in mnt pid net uts ipc cgroup; do readlink /proc/self/ns/$n; done; ls /proc/self/fd | tr '\\n' ' '; echo; "
      "cat /proc/self/status | grep -i -c xyz; pwd; umask";
  h.createRuntime = {Says("R", ask)};
  h.createContainer = {Says("C", ask)};
  h.startContainer = {Says("S", ask, "/tmp/hooks")};
  bundle->spec.process->user.uid = 0;
  std::string inside = Lines("for n in mnt pid net uts ipc cgroup; do readlink /proc/self/ns/$n; done");
  std::string ours;
  for (const char* n : {"mnt", "pid", "net", "uts", "ipc", "cgroup"}) ours += Own(n) + "\n";
  std::string rest = "0 1 2 3 \n0\n";  // 3: ls itself
  EXPECT_NE(inside, ours);
  std::string said = Said();
  size_t c = said.find("\nC\n");  // the bundle's name may end in C
  ASSERT_NE(c, std::string::npos) << said;
  EXPECT_EQ(said.substr(0, c + 1), "R\n" + ours + rest + bundle->dir() + "\n0022\n");
  EXPECT_EQ(said.substr(c + 1), "C\n" + inside + rest + bundle->dir() + "\n0022\n");
  EXPECT_EQ(SaidInside(), "S\n" + inside + rest + "/\n0022\n");
}

TEST_F(HooksTest, MountsAreThereAndCanBeAddedTo) {
  Hooks& h = *bundle->spec.hooks;
  std::string root = bundle->rootfs();
  mkdir((root + "/extra").c_str(), 0755);
  mkdir((root + "/other").c_str(), 0755);
  bundle->Put("/gift", "from the hook");
  bundle->Put("/rootfs/extra/x", "");
  // As the device plugins of GPUs do: by entering the mount namespace, and directly.
  h.createRuntime = {Says("R", "P=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); nsenter -t $P -m mount --bind " +
                                   bundle->dir() + "/gift " + root + "/extra/x; nsenter -t $P -m grep -c ' " + root +
                                   "/proc ' /proc/self/mountinfo")};
  h.createContainer = {
      Says("C", "mount -t tmpfs -o size=1m hooked " + root + "/other && touch " + root + "/other/made")};
  std::string out = Lines("cat /extra/x; echo; ls /other");
  EXPECT_EQ(out, "from the hook\nmade\n") << Said();
  EXPECT_EQ(Said(), "R\n1\nC\n");
  EXPECT_EQ(Lines("grep -c " + bundle->dir() + "/state /proc/self/mountinfo || true"), "0\n");
}

TEST_F(HooksTest, EnvironmentAndArgumentsAreExactlyThese) {
  Hooks& h = *bundle->spec.hooks;
  std::string log = bundle->dir() + "/hooks";
  h.createRuntime = {
      {"/bin/sh",
       {"zero", "-c", "/usr/bin/env | /usr/bin/sort | /bin/grep -v ^PWD= >> " + log + "; echo \"$0 $1\" >> " + log,
        "first", "second"},
       {"ONE=1", "TWO=2 2"},
       {}}};
  h.createContainer = h.createRuntime;
  EXPECT_EQ(RunSh("true").exit_code, 0);
  std::string said = Said();
  std::string one = "ONE=1\nTWO=2 2\nfirst second\n";
  EXPECT_TRUE(said.starts_with(one)) << said;
  EXPECT_NE(said.find(one, 1), std::string::npos) << said;
  EXPECT_EQ(said.find("PATH="), std::string::npos) << said;
}

TEST_F(HooksTest, FailureStopsEverythingAndPoststopRuns) {
  struct Case {
    std::vector<Hook> Hooks::*list;
    const char* name;
    bool in_start;
  };
  for (Case c : {Case{&Hooks::prestart, "prestart", false}, Case{&Hooks::createRuntime, "createRuntime", false},
                 Case{&Hooks::createContainer, "createContainer", false},
                 Case{&Hooks::startContainer, "startContainer", true}, Case{&Hooks::poststart, "poststart", true}}) {
    bundle->spec.hooks.emplace();
    Hooks& h = *bundle->spec.hooks;
    (void)WriteFileAtomic(bundle->dir() + "/hooks", "", 0644);
    (void)WriteFileAtomic(bundle->dir() + "/log", "", 0644);
    h.*c.list = {{"/bin/sh", {"sh", "-c", "echo no luck >&2; exit 7"}, {}, {}},
                 {"/bin/sh", {"sh", "-c", "echo second > /tmp/second; echo x > " + bundle->dir() + "/second"}, {}, {}}};
    h.poststop = {Says("poststop", "true")};
    bundle->Sh("exec sleep 1000");
    bundle->Write();
    std::string id = bundle->Id("f");
    int created = Detached({"create", "--bundle", bundle->dir(), id});
    EXPECT_EQ(created, c.in_start ? 0 : 1) << c.name << Log();
    if (c.in_start) {
      EXPECT_EQ(Detached({"start", id}), 1) << c.name;
    }
    EXPECT_NE(Log().find(std::string(c.name) + " hook #0 (/bin/sh): exit status 7: no luck"), std::string::npos)
        << Log();
    EXPECT_EQ(Said(), "poststop\n") << c.name;
    EXPECT_FALSE(Exists(bundle->dir() + "/second"));
    EXPECT_FALSE(Exists(bundle->rootfs() + "/tmp/second"));
    auto gone = Oci({"state", id});
    EXPECT_EQ(gone.exit_code, 1);
    EXPECT_NE(gone.err.find("does not exist"), std::string::npos) << gone.err;
  }
}

TEST_F(HooksTest, PoststopFailureIsOnlyWarnedOf) {
  bundle->spec.hooks->poststop = {{"/bin/false", {}, {}, {}}, Says("poststop", "true"), {"/no/such/hook", {}, {}, {}}};
  auto out = RunSh("true");
  EXPECT_EQ(out.exit_code, 0);
  EXPECT_NE(out.err.find("warning: poststop hook #0 (/bin/false): exit status 1"), std::string::npos) << out.err;
  EXPECT_NE(out.err.find("poststop hook #2 (/no/such/hook)"), std::string::npos) << out.err;
  EXPECT_EQ(Said(), "poststop\n");
}

TEST_F(HooksTest, TimeoutsEndTheHookAndItsChildren) {
  for (auto list : {&Hooks::createRuntime, &Hooks::createContainer, &Hooks::startContainer}) {
    bundle->spec.hooks.emplace();
    ((*bundle->spec.hooks).*list) = {{"/bin/sh", {"sh", "-c", "sleep 4242 & sleep 4242"}, {"PATH=/bin"}, 1}};
    auto before = std::chrono::steady_clock::now();
    auto out = RunSh("true");
    EXPECT_EQ(out.exit_code, 1);
    EXPECT_NE(out.err.find("not done within its timeout of 1 s"), std::string::npos) << out.err;
    EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(30));
  }
  Command pgrep;
  pgrep.argv = {"/bin/sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep 4242' || true"};
  auto left = berth::Run(pgrep, Deadline::After(std::chrono::seconds(20)));
  ASSERT_TRUE(left);
  EXPECT_EQ(left->out, "1\n") << "only the question itself";
}

TEST_F(HooksTest, HookThatCannotBeRunIsNamed) {
  bundle->spec.hooks->createRuntime = {{"/no/such/hook", {"x"}, {}, {}}};
  auto out = RunSh("true");
  EXPECT_EQ(out.exit_code, 1);
  EXPECT_NE(out.err.find("createRuntime hook #0 (/no/such/hook)"), std::string::npos) << out.err;
  bundle->spec.hooks.emplace().createContainer = {{"/no/such/hook", {"x"}, {}, {}}};
  out = RunSh("true");
  EXPECT_EQ(out.exit_code, 1);
  EXPECT_NE(out.err.find("createContainer hook #0 (/no/such/hook): exit status 127: execute: No such file"),
            std::string::npos)
      << out.err;
  bundle->spec.hooks.emplace().createContainer = {{"relative", {}, {}, {}}};
  EXPECT_NE(RunSh("true").err.find("hooks.createContainer[0].path: \"relative\": must be an absolute path"),
            std::string::npos);
  bundle->spec.hooks.emplace().poststop = {{"/bin/true", {}, {}, 0}};
  EXPECT_NE(RunSh("true").err.find("hooks.poststop[0].timeout: 0: must be above zero"), std::string::npos);
}

TEST_F(HooksTest, AReadonlyRootAndASharedPidNamespace) {
  bundle->spec.root->readonly = true;
  std::erase_if(bundle->spec.linux->namespaces, [](const Namespace& n) { return n.type == "pid"; });
  bundle->spec.hooks->createRuntime = {Says("R", "cat; echo")};
  bundle->spec.hooks->createContainer = {Says("C", "cat; echo")};
  auto out = RunSh("touch /x; echo $$");
  EXPECT_NE(out.err.find("Read-only file system"), std::string::npos) << out.err;
  std::string pid = "\"pid\":" + out.out.substr(0, out.out.size() - 1) + ",";
  std::string said = Said();
  size_t first = said.find(pid);
  ASSERT_NE(first, std::string::npos) << said << out.out;
  EXPECT_NE(said.find(pid, first + 1), std::string::npos) << said;
}

}  // namespace
}  // namespace berth::runtime::oci
