// A function that is inlined into its caller. With SEPARATE_MIXED it is in a
// unit of its own (mixed.c), and only link-time optimization can inline it.
#ifndef MIXED_H
#define MIXED_H

#include "print.h"

int descend(int depth);

#ifdef SEPARATE_MIXED
#define MIXED_INLINE
#else
#define MIXED_INLINE static inline
#endif

#if !defined(SEPARATE_MIXED) || defined(MIXED_DEFINITION)
MIXED_INLINE __attribute__((always_inline)) int mixed_in(int amount) {
    int doubled = amount * 2 + seed;
    show_signed("mixed_in.amount", amount);
    show_signed("mixed_in.doubled", doubled);
    return descend(doubled + seed) + doubled + amount;
}
#else
int mixed_in(int amount);
#endif

#endif
