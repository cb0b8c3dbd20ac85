#include "images/layers/crc32c.h"

#include <array>

namespace berth::images {
namespace {

constexpr std::array<uint32_t, 256> MakeTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) ? 0x82F63B78u : 0u);
    table[i] = value;
  }
  return table;
}

constexpr std::array<uint32_t, 256> kTable = MakeTable();

}  // namespace

uint32_t Crc32c(uint32_t seed, std::string_view bytes) {
  for (unsigned char c : bytes) seed = (seed >> 8) ^ kTable[(seed ^ c) & 0xff];
  return seed;
}

}  // namespace berth::images
