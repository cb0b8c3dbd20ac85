#include "images/digest.h"

#include <openssl/evp.h>

namespace berth::images {
namespace {

constexpr std::string_view kPrefix = "sha256:";
constexpr size_t kHexDigits = 64;

bool IsLowerHex(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace

Result<Digest> Digest::Parse(std::string_view text) {
  if (!text.starts_with(kPrefix)) {
    size_t colon = text.find(':');
    if (colon != std::string_view::npos && colon > 0 && colon <= 32)
      return Err(Code::kInvalidArgument, "digest {:?}: algorithm {:?} is not supported, only sha256",
                 text.substr(0, 200), text.substr(0, colon));
    return Err(Code::kInvalidArgument, "digest {:?}: want sha256: and 64 lower-case hex digits", text.substr(0, 200));
  }
  std::string_view hex = text.substr(kPrefix.size());
  if (hex.size() != kHexDigits || !IsLowerHex(hex))
    return Err(Code::kInvalidArgument, "digest {:?}: want sha256: and 64 lower-case hex digits", text.substr(0, 200));
  Digest digest;
  digest.text_ = text;
  return digest;
}

Digest Digest::Of(std::string_view bytes) {
  Hasher hasher;
  hasher.Update(bytes.data(), bytes.size());
  return hasher.Finish();
}

struct Hasher::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

// EVP fails here only when memory is gone or the library lacks SHA-256, and neither leaves anything to go on with.
Hasher::Hasher() : state_(std::make_unique<State>()) {
  if (state_->context == nullptr || EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) != 1) abort();
}

Hasher::~Hasher() = default;

void Hasher::Update(const void* data, size_t size) {
  if (EVP_DigestUpdate(state_->context, data, size) != 1) abort();
}

Digest Hasher::Finish() {
  unsigned char raw[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  if (EVP_DigestFinal_ex(state_->context, raw, &size) != 1 || size * 2 != kHexDigits) abort();
  Digest digest;
  digest.text_ = kPrefix;
  for (unsigned i = 0; i < size; ++i) {
    digest.text_ += "0123456789abcdef"[raw[i] >> 4];
    digest.text_ += "0123456789abcdef"[raw[i] & 15];
  }
  return digest;
}

}  // namespace berth::images
