#pragma once
// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78) as EROFS superblocks use it: the caller passes the seed
// (0xFFFFFFFF there) and no final inversion is made.
#include <cstdint>
#include <string_view>

namespace berth::images {

uint32_t Crc32c(uint32_t seed, std::string_view bytes);

}  // namespace berth::images
