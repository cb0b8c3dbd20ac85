#pragma once
// The spawner: small, so that a fork is cheap, and in a mount namespace of one mount, so that each clone copies one. Forks
// a monitor for every kSpawn it reads from descriptor 3 and ends with that socket; its monitors do not. Part of berth-shim.
namespace berth::shim {

// `title` is the argument area that `ps` shows: `title_size` writable bytes.
[[noreturn]] void RunSpawner(char* title, unsigned long title_size);

}  // namespace berth::shim
