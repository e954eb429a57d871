/* One build for all instruction sets: what follows TARGET_BEGIN is compiled for the one that it names. */
#if defined(__clang__)
#define TARGET_TEXT(text) _Pragma(#text)
#define TARGET_BEGIN(name) TARGET_TEXT(clang attribute push(__attribute__((target(name))), apply_to = function))
#define TARGET_END _Pragma("clang attribute pop")
#else
#define TARGET_TEXT(text) _Pragma(#text)
#define TARGET_BEGIN(name) _Pragma("GCC push_options") TARGET_TEXT(GCC target(name))
#define TARGET_END _Pragma("GCC pop_options")
#endif
