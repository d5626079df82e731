// What attention fetches from the pages while it uses what it has fetched before.
#pragma once

#include <cstdint>

// Elements of a cache to fetch while others are in use: tokens of a sequence with some kv heads, in memory order.
template <typename T>
class TokenPrefetch {
  public:
    TokenPrefetch() = default;

    // The heads that begin at `cache` in page 0, of the tokens from `first` up to `end`. `page` and `head` are the
    // elements from one page, and from one head, to the next.
    TokenPrefetch(const T* cache, const int32_t* table, int first, int end, int heads, int dim, int page_size,
                int64_t page, int64_t head)
        : cache_(cache), table_(table), token_(first), end_(end), heads_(heads), dim_(dim), page_size_(page_size),
          page_(page), head_(head) {
        if (token_ < end_) find_run();
    }

    void fetch(int lines) {
        for (; lines && token_ < end_; lines--) {
            __builtin_prefetch(at_, 0, 2);
            if ((at_ += 64 / sizeof(T)) >= run_end_) next_run();
        }
    }

  private:
    // A run is a head's elements for the tokens in a page.
    void find_run() {
        const int offset = token_ % page_size_;
        tokens_ = page_size_ - offset < end_ - token_ ? page_size_ - offset : end_ - token_;
        at_ = cache_ + table_[token_ / page_size_] * page_ + at_head_ * head_ + int64_t(offset) * dim_;
        run_end_ = at_ + int64_t(tokens_) * dim_;
    }
    void next_run() {
        if (++at_head_ == heads_) at_head_ = 0, token_ += tokens_;
        if (token_ < end_) find_run();
    }

    const T *cache_ = nullptr, *at_ = nullptr, *run_end_ = nullptr;
    const int32_t* table_ = nullptr;
    int token_ = 0, end_ = 0, tokens_ = 0, at_head_ = 0, heads_ = 0, dim_ = 0, page_size_ = 1;
    int64_t page_ = 0, head_ = 0;
};
