#define SCAN_VARIANT avx2
#include "scan_kernel.h"
