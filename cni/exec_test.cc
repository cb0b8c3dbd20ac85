// Requests to plugin programs and their answers, with shell scripts as plugins.
#include "cni/exec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

namespace berth::cni {
namespace {

using testing::HasSubstr;

TEST(Result, WritesEachVersionAsItIs) {
  CniResult r;
  r.interfaces = {{"eth0", "0a:58:00:00:00:01", "/ns", 1400, "", ""}};
  r.ips = {{"10.0.0.2/24", "10.0.0.1", 0}, {"fd00::2/64", "", 0}};
  r.routes = {{.dst = "0.0.0.0/0", .gw = "10.0.0.1", .mtu = 1300}};
  r.dns.nameservers = {"10.0.0.53"};
  EXPECT_EQ(
      ResultJson(r, "1.1.0"),
      R"({"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mac":"0a:58:00:00:00:01","mtu":1400,"sandbox":"/ns"}],)"
      R"("ips":[{"interface":0,"address":"10.0.0.2/24","gateway":"10.0.0.1"},{"interface":0,"address":"fd00::2/64"}],)"
      R"("routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1","mtu":1300}],"dns":{"nameservers":["10.0.0.53"]}})");
  std::string old = ResultJson(r, "0.4.0");
  EXPECT_THAT(old, HasSubstr(R"({"version":"6","interface":0,"address":"fd00::2/64"})"));
  EXPECT_THAT(old, testing::Not(HasSubstr("mtu")));
  auto back = ParseResult(old, "r");
  ASSERT_TRUE(back) << back.error().what;
  EXPECT_EQ(ResultJson(*back, "0.4.0"), old);
}

TEST(Result, ErrorsNameTheKey) {
  auto wrong = [](const char* text) { return ParseResult(text, "r").error().what; };
  EXPECT_THAT(wrong("[]"), HasSubstr("r: expected an object"));
  EXPECT_THAT(wrong(R"({"ips":{}})"), HasSubstr("r.ips: expected array, got object"));
  EXPECT_THAT(wrong(R"({"ips":[{"address":7}]})"), HasSubstr("r.ips[0].address: expected string, got number"));
  EXPECT_THAT(wrong(R"({"ips":[{"address":"10.0.0.1"}]})"), HasSubstr("r.ips[0].address"));
  EXPECT_THAT(wrong(R"({"ips":[{"address":"10.0.0.1/8","interface":3}]})"), HasSubstr("interface 3"));
  EXPECT_THAT(wrong(R"({"dns":{"search":[1]}})"), HasSubstr("r.dns.search[0]: expected string"));
}

class Exec : public testing::Test {
 protected:
  Exec() {
    char path[] = "/tmp/berth-exec-XXXXXX";
    dirs_ = {"/nonexistent", mkdtemp(path)};
  }
  ~Exec() override { std::filesystem::remove_all(dirs_[1]); }
  void Plugin(const std::string& script) {
    std::ofstream(dirs_[1] + "/p") << "#!/bin/sh\n" << script;
    chmod((dirs_[1] + "/p").c_str(), 0755);
  }
  PluginCall Call() {
    PluginCall call{.command = "ADD",
                    .type = "p",
                    .network = "net",
                    .version = "1.0.0",
                    .container = "c1",
                    .netns_path = "/ns",
                    .interface = "eth0",
                    .args = "A=1",
                    .prev_result = R"({"cniVersion":"1.0.0"})",
                    .dirs = dirs_};
    call.config = {{"type", "p"}, {"key", 7}};
    call.runtime_config = {{"portMappings", json::Array{}}};
    return call;
  }
  std::vector<std::string> dirs_;
  Deadline soon_ = Deadline::After(std::chrono::seconds(10));
};

TEST_F(Exec, HandsOverEnvironmentAndRequest) {
  Plugin("echo \"$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS $CNI_PATH\"; cat");
  auto out = RunPlugin(Call(), soon_);
  ASSERT_TRUE(out) << out.error().what;
  EXPECT_EQ(*out, "ADD c1 /ns eth0 A=1 /nonexistent:" + dirs_[1] +
                      R"(
{"type":"p","key":7,"name":"net","cniVersion":"1.0.0","runtimeConfig":{"portMappings":[]},"prevResult":{"cniVersion":"1.0.0"}})");
}

TEST_F(Exec, FailuresKeepThePluginsWords) {
  auto failure = [&](const std::string& script) {
    Plugin(script);
    return RunPlugin(Call(), soon_).error();
  };
  Error e = failure(R"(echo '{"code":11,"msg":"busy","details":"try later"}'; exit 1)");
  EXPECT_EQ(e.code, Code::kUnavailable);
  EXPECT_EQ(e.what, "cni plugin p ADD: busy; try later (code 11)");
  EXPECT_EQ(failure(R"(echo '{"code":7,"msg":"bad config"}'; exit 1)").code, Code::kFailedPrecondition);
  EXPECT_EQ(failure("echo boom >&2; exit 3").what, "cni plugin p ADD: exit status 3: boom");
  EXPECT_EQ(failure("exit 1").what, "cni plugin p ADD: exit status 1: no message");
}

TEST_F(Exec, StopsAtTheDeadline) {
  Plugin("sleep 60");
  auto out = RunPlugin(Call(), Deadline::After(std::chrono::milliseconds(100)));
  ASSERT_FALSE(out);
  EXPECT_EQ(out.error().code, Code::kDeadlineExceeded);
}

TEST_F(Exec, AMissingPluginSaysWhereItWasLookedFor) {
  auto out = RunPlugin(Call(), soon_);
  ASSERT_FALSE(out);
  EXPECT_EQ(out.error().code, Code::kFailedPrecondition);
  EXPECT_THAT(out.error().what, testing::AllOf(HasSubstr("'p'"), HasSubstr("/nonexistent, " + dirs_[1])));
}

TEST(Args, CannotBeInjected) {
  EXPECT_EQ(KubernetesArgs(PodId("id"), "a;IP=1", "ns", "u"),
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=aIP1;K8S_POD_INFRA_CONTAINER_ID=id;K8S_POD_UID=u");
}

}  // namespace
}  // namespace berth::cni
