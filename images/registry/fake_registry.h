#pragma once
// For tests: registries in memory, behind the Transport seam. Any host answers what Put said; ranges work; faults can
// be arranged per request.
#include <map>
#include <mutex>
#include <set>

#include "images/digest.h"
#include "images/media.h"
#include "images/registry/transport.h"

namespace berth::images {

struct FakeAnswer {
  int status = 200;
  std::map<std::string, std::string> headers;
  std::string body;
  size_t cut = std::string::npos;     // the connection breaks after so many bytes of the body
  std::function<void()> before_body;  // called before the first byte is given out
};

class FakeResponse : public HttpResponse {
 public:
  explicit FakeResponse(FakeAnswer answer, bool head) : answer_(std::move(answer)), head_(head) {}
  int status() const override { return answer_.status; }
  std::string Header(std::string_view name) const override {
    for (const auto& [key, value] : answer_.headers)
      if (key.size() == name.size() && ::strncasecmp(key.data(), name.data(), name.size()) == 0) return value;
    return "";
  }
  Result<size_t> Read(std::span<char> into, const Deadline& until) override {
    if (head_) return size_t{0};
    if (at_ == 0 && answer_.before_body) answer_.before_body();
    TRY(until.Check("bytes"));
    if (at_ >= answer_.cut) return Err(Code::kUnavailable, "the connection broke off");
    size_t n = std::min({into.size(), answer_.body.size() - at_, answer_.cut - at_, size_t{4096}});
    std::memcpy(into.data(), answer_.body.data() + at_, n);
    at_ += n;
    return n;
  }

 private:
  FakeAnswer answer_;
  bool head_;
  size_t at_ = 0;
};

class FakeRegistry : public Transport {
 public:
  struct Seen {
    std::string method, url, authorization, range, body;
  };

  Result<std::unique_ptr<HttpResponse>> Send(const HttpRequest& request, const Deadline& until) override {
    TRY(until.Check("the exchange"));
    Seen seen{request.method, request.url.str(), "", "", request.body};
    for (const auto& [name, value] : request.headers) {
      if (name == "Authorization") seen.authorization = value;
      if (name == "Range") seen.range = value;
    }
    std::optional<FakeAnswer> answer;
    std::function<std::optional<FakeAnswer>(const Seen&)> hook;
    {
      std::lock_guard lock(mutex_);
      seen_.push_back(seen);
      hook = hook_;
      std::string plain = seen.url.substr(0, seen.url.find('?'));
      if (auto it = answers_.find(plain); it != answers_.end()) answer = it->second;
      if (unreachable_.contains(request.url.Origin()))
        return Err(Code::kUnavailable, "connect to {}: connection refused", request.url.Origin());
    }
    if (hook)
      if (auto other = hook(seen)) answer = other;
    if (!answer) answer = FakeAnswer{404, {}, R"({"errors":[{"code":"UNKNOWN","message":"unknown"}]})"};
    if (answer->status == 200 && seen.range.starts_with("bytes=")) {
      size_t from = std::stoul(seen.range.substr(6));
      answer->status = 206;
      answer->headers["Content-Range"] =
          fmt::format("bytes {}-{}/{}", from, answer->body.size() - 1, answer->body.size());
      answer->body.erase(0, from);
    }
    return std::make_unique<FakeResponse>(std::move(*answer), request.method == "HEAD");
  }
  Result<bool> SpeaksTls(const Url& url, const Deadline&) override { return !plain_.contains(url.Authority()); }

  void Put(const std::string& url, FakeAnswer answer) {
    std::lock_guard lock(mutex_);
    answers_[url] = std::move(answer);
  }
  void PutBlob(const std::string& base, const std::string& bytes) {
    Put(fmt::format("{}/blobs/{}", base, Digest::Of(bytes)), {200, {}, bytes});
  }
  // `base`: "https://host/v2/repository". Under its digest and, unless empty, a tag.
  Digest PutManifest(const std::string& base, const std::string& tag, const std::string& bytes,
                     std::string_view type = media::kOciManifest) {
    Digest digest = Digest::Of(bytes);
    FakeAnswer answer{200, {{"Content-Type", std::string(type)}, {"Docker-Content-Digest", digest.str()}}, bytes};
    Put(fmt::format("{}/manifests/{}", base, digest), answer);
    if (!tag.empty()) Put(fmt::format("{}/manifests/{}", base, tag), answer);
    return digest;
  }
  // First say on every request; nothing: the table answers. Called without a lock.
  void Hook(std::function<std::optional<FakeAnswer>(const Seen&)> hook) {
    std::lock_guard lock(mutex_);
    hook_ = std::move(hook);
  }
  void Unreachable(const std::string& origin) {
    std::lock_guard lock(mutex_);
    unreachable_.insert(origin);
  }
  void SpeaksPlainHttp(const std::string& authority) { plain_.insert(authority); }
  std::vector<Seen> seen() const {
    std::lock_guard lock(mutex_);
    return seen_;
  }
  size_t Count(std::string_view method, std::string_view part) const {
    std::lock_guard lock(mutex_);
    return std::count_if(seen_.begin(), seen_.end(),
                         [&](const Seen& s) { return s.method == method && s.url.find(part) != std::string::npos; });
  }
  void Forget() {
    std::lock_guard lock(mutex_);
    seen_.clear();
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, FakeAnswer> answers_;
  std::set<std::string> unreachable_, plain_;
  std::function<std::optional<FakeAnswer>(const Seen&)> hook_;
  std::vector<Seen> seen_;
};

}  // namespace berth::images
