#pragma once

#include <cstddef>
#include <cstdlib>

// Memory that a thread keeps between calls, handed out consecutively after each reset.
class Scratch {
  public:
    ~Scratch() { free(data_); }
    void reserve(size_t bytes) {
        if (bytes <= size_) return;
        free(data_);
        data_ = (char*)aligned_alloc(64, size_ = padded(bytes));
        if (!data_) abort();
    }
    void reset() { used_ = 0; }
    template <typename E>
    E* take(size_t count) {
        E* taken = (E*)(data_ + used_);
        used_ += padded(count * sizeof(E));
        return taken;
    }

  private:
    static size_t padded(size_t bytes) { return (bytes + 63) / 64 * 64; }

    char* data_ = nullptr;
    size_t size_ = 0, used_ = 0;
};
