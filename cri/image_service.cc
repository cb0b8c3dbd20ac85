#include "api.grpc.pb.h"
#include "cri/check.h"
#include "cri/convert.h"
#include "cri/services.h"
#include "cri/streams.h"
#include "cri/unary.h"
#include "pods/operations.h"

namespace berth::cri {
namespace {

// A name that stands in a request: `field` is its path there.
Result<void> CheckImage(std::string_view field, const api::ImageSpec& image, Call& call) {
  call.object = image.image().substr(0, 128);
  if (image.image().empty()) return Bad(field, "must not be empty; an image id, tag or digest reference");
  return CheckWord(field, image.image(), 1024);
}

}  // namespace

Result<void> ListImages(Door& door, const api::ListImagesRequest& request, api::ListImagesResponse& response,
                        Call& call) {
  if (request.filter().has_image() && !request.filter().image().image().empty()) {
    TRY(CheckImage("filter.image.image", request.filter().image(), call));
    auto image = door.images.Find(request.filter().image().image());
    if (image)
      FillImage(**image, *response.add_images());
    else if (image.error().code != Code::kNotFound)
      return std::unexpected(image.error());
    return {};
  }
  for (const auto& image : door.images.List()) FillImage(*image, *response.add_images());
  return {};
}

namespace {

Result<void> ImageStatus(Door& door, const api::ImageStatusRequest& request, api::ImageStatusResponse& response,
                         Call& call) {
  TRY(CheckImage("image.image", request.image(), call));
  auto image = door.images.Find(request.image().image());
  if (!image) {
    if (image.error().code == Code::kNotFound) return {};  // an empty answer is how the CRI says so
    return Wrap(image.error(), "image.image");
  }
  FillImage(**image, *response.mutable_image());
  if (request.verbose()) (*response.mutable_info())["info"] = ImageInfo(**image);
  return {};
}

Result<void> PullImage(Door& door, const api::PullImageRequest& request, api::PullImageResponse& response, Call& call) {
  TRY(CheckImage("image.image", request.image(), call));
  images::PullRequest pull;
  pull.reference = request.image().image();
  pull.credentials = TRY(ToCredentials(request.auth(), pull.reference));
  pods::Operation operation(door.core.operations, "pull_image", pull.reference);
  pull.progress = [&](const images::PullProgress& p) {
    if (p.total == 0)
      operation.Blocker(fmt::format("{} {}", p.status, p.layer));
    else
      operation.Blocker(fmt::format("{} {} {}/{} bytes", p.status, p.layer, p.current, p.total));
  };
  auto image = door.images.Pull(pull, call.until);
  if (!image) {
    if (image.error().code == Code::kUnavailable) call.kubelet_text = "RegistryUnavailable";
    return std::unexpected(image.error());
  }
  response.set_image_ref((*image)->id.str());
  return {};
}

Result<void> RemoveImage(Door& door, const api::RemoveImageRequest& request, api::RemoveImageResponse&, Call& call) {
  TRY(CheckImage("image.image", request.image(), call));
  auto removed = door.images.Remove(request.image().image());
  if (!removed && removed.error().code != Code::kNotFound) return std::unexpected(removed.error());
  return {};
}

Result<void> ImageFsInfo(Door& door, const api::ImageFsInfoRequest&, api::ImageFsInfoResponse& response, Call&) {
  images::Usage usage = door.images.DiskUsage();
  for (auto* filesystem : {response.add_image_filesystems(), response.add_container_filesystems()}) {
    filesystem->set_timestamp(door.core.clock.UnixNanos());
    filesystem->mutable_fs_id()->set_mountpoint(door.images.root());
    filesystem->mutable_used_bytes()->set_value(usage.bytes);
    filesystem->mutable_inodes_used()->set_value(usage.inodes);
  }
  return {};
}

class ImageService final : public api::ImageService::CallbackService {
 public:
  explicit ImageService(Door& door) : door_(door) {}
  using Context = grpc::CallbackServerContext;

#define BERTH_RPC(Name, label, kind)                                                                                 \
  grpc::ServerUnaryReactor* Name(Context* context, const api::Name##Request* request, api::Name##Response* response) \
      override {                                                                                                     \
    return Unary(door_, {label, Rpc::kind}, context, request, response, &cri::Name);                                 \
  }
  BERTH_RPC(ListImages, "list_images", kRead)
  BERTH_RPC(ImageStatus, "image_status", kRead)
  BERTH_RPC(PullImage, "pull_image", kChange)
  BERTH_RPC(RemoveImage, "remove_image", kChange)
  BERTH_RPC(ImageFsInfo, "image_fs_info", kRead)
#undef BERTH_RPC

  grpc::ServerWriteReactor<api::StreamImagesResponse>* StreamImages(Context* context,
                                                                    const api::StreamImagesRequest* request) override {
    auto* call = new AnswerStream<api::StreamImagesResponse>(door_, {"stream_images"}, context);
    call->Start(request, &cri::StreamImages);
    return call;
  }

 private:
  Door& door_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeImageService(Door& door) { return std::make_unique<ImageService>(door); }

}  // namespace berth::cri
