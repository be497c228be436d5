#define SCAN_VARIANT baseline
#include "scan_kernel.h"
