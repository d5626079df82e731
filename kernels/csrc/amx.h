// The AMX tile registers: permission to use them, and their configuration.
#pragma once

#include <cstdint>

#if defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__AVX512BF16__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define HR_HAS_AMX 1

// The kernel gives a process the tile registers only when it asks for them.
inline bool amx_usable() {
    static const bool granted = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18) == 0;
    return granted;
}

// Eight full tiles, configured for the calling thread. oneDNN sets its own before each of its kernels.
struct AmxSession {
    AmxSession() {
        struct {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } config;
        // Compilers only know that the first bytes are read, and might leave the others unwritten.
        asm volatile("" : : "r"(&config) : "memory");
        _tile_loadconfig(&config);
    }
    ~AmxSession() { _tile_release(); }
};
#endif
