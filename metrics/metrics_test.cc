#include <poll.h>
#include <sys/socket.h>

#include <thread>

#include <gtest/gtest.h>

#include "base/fd_stream.h"
#include "base/net_address.h"
#include "base/testing.h"
#include "metrics/registry.h"

namespace berth::metrics {
namespace {

using namespace std::chrono_literals;
using berth::testing::IsErr;
using berth::testing::IsOk;

bool Contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

TEST(Registry, OperationHistogram) {
  Registry registry;
  registry.ObserveOperation("run_pod_sandbox", "ok", 700us);
  registry.ObserveOperation("run_pod_sandbox", "ok", 90s);
  registry.ObserveOperation("run_pod_sandbox", "not_found", 0s);
  const std::string page = registry.Page();
  EXPECT_TRUE(Contains(page, "# TYPE berth_operation_seconds histogram\n"));
  for (const char* line : {R"(berth_operation_seconds_count{code="ok",op="run_pod_sandbox"} 2)",
                           R"(berth_operation_seconds_bucket{code="ok",op="run_pod_sandbox",le="0.0005"} 0)",
                           R"(berth_operation_seconds_bucket{code="ok",op="run_pod_sandbox",le="0.001"} 1)",
                           R"(berth_operation_seconds_bucket{code="ok",op="run_pod_sandbox",le="60"} 1)",
                           R"(berth_operation_seconds_bucket{code="ok",op="run_pod_sandbox",le="+Inf"} 2)",
                           R"(berth_operation_seconds_bucket{code="not_found",op="run_pod_sandbox",le="0.0005"} 1)"})
    EXPECT_TRUE(Contains(page, line + std::string("\n"))) << line << "\n" << page;
}

TEST(Registry, OwnMetrics) {
  Registry registry;
  Counter& counter = registry.AddCounter("a_total", "Two\nlines \\ here.", {"x"});
  counter.Add(2, {"\"q\"\n"});
  counter.Add(1, {"\"q\"\n"});
  Gauge& gauge = registry.AddGauge("b", "B.");
  gauge.Set(5);
  gauge.Add(-7);
  registry.AddHistogram("c", "C.", {1, 2}).Observe(1.5);
  const std::string page = registry.Page();
  EXPECT_TRUE(Contains(page, "# HELP a_total Two\\nlines \\\\ here.\n# TYPE a_total counter\na_total{x=\"\\\"q\\\"\\n\"} 3\n")) << page;
  EXPECT_TRUE(Contains(page, "\nb -2\n"));
  EXPECT_TRUE(Contains(page, "c_bucket{le=\"2\"} 1\n"));
}

TEST(Registry, CollectorsAreJoinedSortedAndChecked) {
  Registry registry;
  registry.AddCollector([] {
    return std::vector<Family>{{"z_total", "Z.", Kind::kCounter, {{{{"pod", "a"}}, 1}}}, {"a_first", "A.", Kind::kGauge, {{{}, 0.5}}}};
  });
  registry.AddCollector([] {
    return std::vector<Family>{{"z_total", "Z.", Kind::kCounter, {{{{"pod", "b"}}, 2}, {{{"bad-label", "c"}}, 3}}},
                               {"a_first", "A.", Kind::kCounter, {{{}, 9}}},
                               {"bad name", "", Kind::kGauge, {{{}, 1}}},
                               {"empty", "", Kind::kGauge, {}}};
  });
  EXPECT_EQ(registry.Page(),
            "# HELP a_first A.\n# TYPE a_first gauge\na_first 0.5\n"
            "# HELP z_total Z.\n# TYPE z_total counter\nz_total{pod=\"a\"} 1\nz_total{pod=\"b\"} 2\n");
}

TEST(Registry, ThreadsObserveAndScrape) {
  Registry registry;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        registry.ObserveOperation("op", "ok", 1ms);
        if (i % 50 == 0) (void)registry.Page();
      }
    });
  for (auto& t : threads) t.join();
  EXPECT_TRUE(Contains(registry.Page(), "berth_operation_seconds_count{code=\"ok\",op=\"op\"} 800\n"));
}

TEST(Process, SaysSomethingTrue) {
  std::map<std::string, double> values;
  for (const Family& f : ProcessFamilies()) values[f.name] = f.samples.at(0).value;
  EXPECT_GT(values["process_resident_memory_bytes"], 100'000);
  EXPECT_GE(values["process_threads"], 1);
  EXPECT_GE(values["process_open_fds"], 3);
  EXPECT_GT(values["process_start_time_seconds"], 1.6e9);
  EXPECT_TRUE(values.contains("process_cpu_seconds_total"));
}

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = Server::Start("127.0.0.1:0", registry_);
    ASSERT_TRUE(IsOk(server));
    server_ = std::move(*server);
  }
  unique_fd Connect() {
    const HostPort at = *ParseIpPort(server_->address());
    return std::move(*ConnectTcp(at.host, std::to_string(at.port), Deadline::After(30s)));
  }
  // Everything the server sends until it closes.
  static std::string ReadToEnd(unique_fd fd) {
    FdStream stream(std::move(fd), Deadline::After(60s));
    std::string out;
    char buffer[4096];
    for (boost::system::error_code ec;;) {
      const size_t n = stream.read_some(boost::asio::buffer(buffer), ec);
      if (ec) return out;
      out.append(buffer, n);
    }
  }
  std::string Exchange(std::string_view request) {
    unique_fd fd = Connect();
    EXPECT_TRUE(IsOk(WriteAll(fd.get(), request)));
    return ReadToEnd(std::move(fd));
  }

  Registry registry_;
  std::unique_ptr<Server> server_;
};

TEST_F(ServerTest, ServesThePage) {
  registry_.ObserveOperation("pull", "ok", 1s);
  const std::string answer = Exchange("GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n")) << answer;
  EXPECT_TRUE(Contains(answer, "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
  EXPECT_TRUE(Contains(answer, "berth_operation_seconds_sum{code=\"ok\",op=\"pull\"} 1\n"));
}

TEST_F(ServerTest, KeepsTheConnection) {
  const std::string answer =
      Exchange("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(Contains(answer, "ok\nHTTP/1.1 200 OK\r\n")) << answer;
}

TEST_F(ServerTest, HeadHasTheLengthButNoBody) {
  const std::string answer = Exchange("HEAD /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(Contains(answer, "Content-Length: 3\r\n")) << answer;
  EXPECT_TRUE(answer.ends_with("\r\n\r\n"));
}

TEST_F(ServerTest, RefusalsAreAnswers) {
  EXPECT_TRUE(Exchange("GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 404 Not Found\r\n"));
  const std::string post = Exchange("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi");
  EXPECT_TRUE(post.starts_with("HTTP/1.1 405 Method Not Allowed\r\n")) << post;
  EXPECT_TRUE(Contains(post, "Allow: GET, HEAD\r\n"));
  EXPECT_TRUE(Exchange("nonsense\r\n\r\n").starts_with("HTTP/1.1 400 Bad Request\r\n"));
  EXPECT_TRUE(Exchange("PUT /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n").starts_with("HTTP/1.1 413 "));
  EXPECT_TRUE(Exchange(fmt::format("GET /metrics HTTP/1.1\r\nX: {:x>20000}\r\n\r\n", "")).starts_with("HTTP/1.1 400 "));
}

TEST_F(ServerTest, TheNinthConnectionIsTurnedAway) {
  std::vector<unique_fd> held;
  for (int i = 0; i < 8; ++i) {
    held.push_back(Connect());
    // An answer shows that the connection has its thread.
    ASSERT_TRUE(IsOk(WriteAll(held.back().get(), "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")));
    ASSERT_TRUE(IsOk(Deadline::After(60s).WaitFor(held.back().get(), POLLIN, "an answer")));
  }
  EXPECT_TRUE(ReadToEnd(Connect()).starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
}

TEST_F(ServerTest, StopsWithConnectionsOpen) {
  unique_fd idle = Connect();
  server_.reset();
  EXPECT_EQ(ReadToEnd(std::move(idle)), "");
}

TEST_F(ServerTest, AddressesAreChecked) {
  EXPECT_TRUE(IsErr(Server::Start(server_->address(), registry_), Code::kConflict, "another process"));
  EXPECT_TRUE(IsErr(Server::Start("localhost:1", registry_), Code::kInvalidArgument, "localhost:1"));
}

}  // namespace
}  // namespace berth::metrics
