#pragma once
// An image store in memory for tests: images are what the test puts into it. Find knows ids, prefixes, tags and digests
// as they were put; nothing is pulled, imported or exported.
#include <map>
#include <mutex>

#include "images/snapshots/fake_snapshotter.h"
#include "images/store.h"

namespace berth::pods::testing {

class FakeStore : public images::Store {
 public:
  images::ImagePtr Put(images::Image image) {
    auto made = std::make_shared<const images::Image>(std::move(image));
    std::lock_guard lock(mutex_);
    images_[made->id.str()] = made;
    return made;
  }
  // A small image: entrypoint, cmd and user can be changed before Put.
  static images::Image Small(const std::string& tag) {
    images::Image image;
    image.id = images::Digest::Of(tag);
    image.config.entrypoint = {"/bin/app"};
    image.config.cmd = {"--serve"};
    image.config.env = {"PATH=/bin", "APP=1"};
    image.diff_ids = {images::Digest::Of("layer")};
    image.repo_tags = {tag};
    image.repo_digests = {tag.substr(0, tag.rfind(':')) + "@" + images::Digest::Of("manifest").str()};
    return image;
  }

  Result<images::ImagePtr> Find(const std::string& name) const override {
    std::lock_guard lock(mutex_);
    for (const auto& [id, image] : images_) {
      if (id == name || id.substr(7) == name || (name.size() >= 4 && id.substr(7).starts_with(name))) return image;
      for (const auto* names : {&image->repo_tags, &image->repo_digests})
        for (const auto& n : *names)
          if (n == name) return image;
    }
    return Err(Code::kNotFound, "image {}: not in the store", name);
  }
  std::vector<images::ImagePtr> List() const override {
    std::lock_guard lock(mutex_);
    std::vector<images::ImagePtr> out;
    for (const auto& [id, image] : images_) out.push_back(image);
    return out;
  }
  Result<images::ImagePtr> Pull(const images::PullRequest& request, const Deadline&) override {
    return Find(request.reference);
  }
  Result<void> Remove(const std::string& name) override {
    auto image = TRY(Find(name));
    std::lock_guard lock(mutex_);
    images_.erase(image->id.str());
    return {};
  }
  Result<images::ImagePtr> Tag(const std::string&, const std::string&) override {
    return Err(Code::kUnimplemented, "tag");
  }
  Result<std::vector<images::ImagePtr>> Import(int, const std::string&, const Deadline&) override {
    return Err(Code::kUnimplemented, "import");
  }
  Result<void> Export(const std::vector<std::string>&, Archive, int, const Deadline&) override {
    return Err(Code::kUnimplemented, "export");
  }
  images::FakeSnapshotter& snapshotter() override { return snapshotter_; }
  images::Usage DiskUsage() const override { return {}; }
  std::string root() const override { return "/"; }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, images::ImagePtr> images_;
  images::FakeSnapshotter snapshotter_;
};

}  // namespace berth::pods::testing
