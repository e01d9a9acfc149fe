#include "common/base/leaks.h"

#ifdef WORKSHOP_SANITIZE
#include <sanitizer/lsan_interface.h>

static int ignored;

/* LeakSanitizer asks this as the process ends. */
int __lsan_is_turned_off(void) {
    return ignored;
}

void leaks_ignore(void) {
    ignored = 1;
}
#else
void leaks_ignore(void) {
}
#endif
