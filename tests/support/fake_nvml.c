/* A libnvidia-ml.so.1 that plays a machine described by the environment variable FAKE_NVML.
 *
 * FAKE_NVML is either `init=CODE` (nvmlInit fails with that code) or devices parted by `;`,
 * each `NAME|TOTAL|FREE` and then any of
 *   lost         every question about it answers GPU_IS_LOST (15)
 *   dies=N       it is lost once N questions about it were answered
 *   nohandle     it cannot even be opened: GPU_IS_LOST from GetHandleByIndex
 *   hang         opening it never returns
 *   nomemory     memory questions answer NOT_SUPPORTED (3), as on boards with shared memory
 *   quiet        clocks, power, temperature, bus and PCIe answer NOT_SUPPORTED
 *   noenergy     there is no energy counter
 *   bus=BITS  clock=MHZ  cc=MAJOR.MINOR  power=MW  limit=MW  temp=C  ecc=0|1  reasons=BITS
 *   own=BYTES    the asking process holds so much of it (0: unknown), beside another process
 *   mig          MIG mode is on
 *   slice=NAME,TOTAL,FREE   a MIG instance (several allowed; turns MIG mode on)
 * An empty FAKE_NVML is a driver without GPUs.
 * nvmlDeviceGetTemperatureV and the event-reasons call are left out: an older driver has none.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOT_SUPPORTED 3
#define INVALID 2
#define NOT_FOUND 6
#define LOST 15
#define MAX_DEVICES 16
#define MAX_SLICES 7

typedef struct device {
    char name[96];
    char uuid[96];
    int index, lost, dies, asked, nohandle, hang, nomemory, quiet, noenergy, mig, ecc;
    unsigned long long total, free, reasons, energy, own;
    int has_own;
    unsigned bus, clock, power, limit, temp;
    int major, minor, slices;
    struct device *slice[MAX_SLICES];
    struct device *parent;
} device;

static device devices[MAX_DEVICES];
static device slices[MAX_DEVICES * MAX_SLICES];
static int n_devices, n_slices, init_code;

static void parse_slice(device *parent, char *text) {
    if (parent->slices == MAX_SLICES) { fprintf(stderr, "FAKE_NVML: too many slices\n"); abort(); }
    device *s = &slices[n_slices++];
    memset(s, 0, sizeof *s);
    char *total = strchr(text, ',');
    *total++ = 0;
    char *free_text = strchr(total, ',');
    *free_text++ = 0;
    snprintf(s->name, sizeof s->name, "%s", text);
    s->total = strtoull(total, NULL, 10);
    s->free = strtoull(free_text, NULL, 10);
    s->parent = parent;
    s->index = parent->slices;
    snprintf(s->uuid, sizeof s->uuid, "MIG-%08x-0000-0000-0000-00000000000%d", parent->index,
             parent->slices);
    parent->mig = 1;
    parent->slice[parent->slices++] = s;
}

static void parse_option(device *d, char *text) {
    if (!strcmp(text, "lost")) d->lost = 1;
    else if (!strcmp(text, "nohandle")) d->nohandle = 1;
    else if (!strcmp(text, "hang")) d->hang = 1;
    else if (!strcmp(text, "nomemory")) d->nomemory = 1;
    else if (!strcmp(text, "quiet")) d->quiet = 1;
    else if (!strcmp(text, "noenergy")) d->noenergy = 1;
    else if (!strcmp(text, "mig")) d->mig = 1;
    else if (!strncmp(text, "dies=", 5)) d->dies = atoi(text + 5);
    else if (!strncmp(text, "bus=", 4)) d->bus = atoi(text + 4);
    else if (!strncmp(text, "clock=", 6)) d->clock = atoi(text + 6);
    else if (!strncmp(text, "power=", 6)) d->power = atoi(text + 6);
    else if (!strncmp(text, "limit=", 6)) d->limit = atoi(text + 6);
    else if (!strncmp(text, "temp=", 5)) d->temp = atoi(text + 5);
    else if (!strncmp(text, "ecc=", 4)) d->ecc = atoi(text + 4);
    else if (!strncmp(text, "own=", 4)) { d->own = strtoull(text + 4, NULL, 10); d->has_own = 1; }
    else if (!strncmp(text, "reasons=", 8)) d->reasons = strtoull(text + 8, NULL, 0);
    else if (!strncmp(text, "cc=", 3)) sscanf(text + 3, "%d.%d", &d->major, &d->minor);
    else if (!strncmp(text, "slice=", 6)) parse_slice(d, text + 6);
    else { fprintf(stderr, "FAKE_NVML: unknown option %s\n", text); abort(); }
}

static void parse_device(char *text) {
    if (n_devices == MAX_DEVICES) { fprintf(stderr, "FAKE_NVML: too many GPUs\n"); abort(); }
    device *d = &devices[n_devices];
    memset(d, 0, sizeof *d);
    d->index = n_devices++;
    d->bus = 128; d->clock = 7001; d->power = 20000; d->limit = 160000; d->temp = 40;
    d->ecc = -1; d->major = 8; d->minor = 9;
    snprintf(d->uuid, sizeof d->uuid, "GPU-%08x-1111-2222-3333-444444444444", d->index + 0xabc0);
    char *save = NULL;
    int field = 0;
    for (char *part = strtok_r(text, "|", &save); part; part = strtok_r(NULL, "|", &save), field++) {
        if (field == 0) snprintf(d->name, sizeof d->name, "%s", part);
        else if (field == 1) d->total = strtoull(part, NULL, 10);
        else if (field == 2) d->free = strtoull(part, NULL, 10);
        else parse_option(d, part);
    }
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    const char *wanted = getenv("FAKE_NVML");
    char *text = strdup(wanted ? wanted : ""), *save = NULL;
    n_devices = n_slices = 0;
    init_code = 0;
    if (!strncmp(text, "init=", 5)) init_code = atoi(text + 5);
    else for (char *one = strtok_r(text, ";", &save); one; one = strtok_r(NULL, ";", &save))
        parse_device(one);
    free(text);
    return init_code;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == LOST ? "GPU is lost" : "fake error"; }

int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    snprintf(out, size, "570.86.15");
    return 0;
}

int nvmlSystemGetCudaDriverVersion_v2(int *out) { *out = 12080; return 0; }
int nvmlDeviceGetCount_v2(unsigned *out) { *out = n_devices; return 0; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **out) {
    if (index >= (unsigned)n_devices) return INVALID;
    if (devices[index].hang) for (;;) pause();
    if (devices[index].nohandle) return LOST;
    *out = &devices[index];
    return 0;
}

static int is_lost(device *d) {
    if (d->parent) d = d->parent;
    return d->lost || (d->dies && ++d->asked > d->dies);
}

#define ALIVE(d) do { if (is_lost(d)) return LOST; } while (0)
#define SPEAKS(d) do { ALIVE(d); if ((d)->quiet || (d)->parent) return NOT_SUPPORTED; } while (0)

int nvmlDeviceGetName(device *d, char *out, unsigned size) {
    ALIVE(d);
    snprintf(out, size, "%s", d->name);
    return 0;
}

int nvmlDeviceGetUUID(device *d, char *out, unsigned size) {
    ALIVE(d);
    snprintf(out, size, "%s", d->uuid);
    return 0;
}

typedef struct {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
} pci_info;

int nvmlDeviceGetPciInfo_v3(device *d, pci_info *out) {
    ALIVE(d);
    memset(out, 0, sizeof *out);
    out->bus = d->index + 1;
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", d->index + 1);
    return 0;
}

typedef struct { unsigned long long total, free, used; } memory_v1;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2;

int nvmlDeviceGetMemoryInfo(device *d, memory_v1 *out) {
    ALIVE(d);
    if (d->nomemory) return NOT_SUPPORTED;
    out->total = d->total;
    out->free = d->free;
    out->used = d->total - d->free;
    return 0;
}

int nvmlDeviceGetMemoryInfo_v2(device *d, memory_v2 *out) {
    ALIVE(d);
    if (d->nomemory) return NOT_SUPPORTED;
    unsigned long long gone = d->total - d->free;
    out->total = d->total;
    out->free = d->free;
    out->reserved = gone / 4;
    out->used = gone - gone / 4;
    return 0;
}

int nvmlDeviceGetCudaComputeCapability(device *d, int *major, int *minor) {
    ALIVE(d);
    *major = d->major;
    *minor = d->minor;
    return 0;
}

#define NUMBER(function, type, value) \
    int function(device *d, type *out) { SPEAKS(d); *out = (value); return 0; }

NUMBER(nvmlDeviceGetMemoryBusWidth, unsigned, d->bus)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned, d->limit)
NUMBER(nvmlDeviceGetPowerUsage, unsigned, d->power)
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, unsigned, 4)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, unsigned, 16)
NUMBER(nvmlDeviceGetDisplayActive, unsigned, d->index == 0)
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, d->reasons)

int nvmlDeviceGetTotalEnergyConsumption(device *d, unsigned long long *out) {
    SPEAKS(d);
    if (d->noenergy) return NOT_SUPPORTED;
    *out = d->energy += 5000; /* five joules between any two questions */
    return 0;
}

typedef struct {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
} process_info;

int nvmlDeviceGetComputeRunningProcesses_v3(device *d, unsigned *count, process_info *out) {
    SPEAKS(d);
    unsigned there = d->has_own ? 2 : 1, room = *count;
    *count = there;
    if (room < there) return 7; /* INSUFFICIENT_SIZE */
    out[0] = (process_info){1, 1 << 20, 0, 0};
    if (d->has_own) out[1] = (process_info){getpid(), d->own ? d->own : ~0ull, 0, 0};
    return 0;
}

int nvmlDeviceGetTemperature(device *d, unsigned sensor, unsigned *out) {
    (void)sensor;
    SPEAKS(d);
    *out = d->temp;
    return 0;
}

int nvmlDeviceGetMaxClockInfo(device *d, unsigned type, unsigned *out) {
    SPEAKS(d);
    *out = type == 2 ? d->clock : 2520;
    return 0;
}

int nvmlDeviceGetClockInfo(device *d, unsigned type, unsigned *out) {
    SPEAKS(d);
    *out = type == 2 ? d->clock : 1980;
    return 0;
}

int nvmlDeviceGetEccMode(device *d, unsigned *current, unsigned *pending) {
    SPEAKS(d);
    if (d->ecc < 0) return NOT_SUPPORTED;
    *current = *pending = d->ecc;
    return 0;
}

int nvmlDeviceGetMigMode(device *d, unsigned *current, unsigned *pending) {
    SPEAKS(d);
    *current = *pending = d->mig;
    return 0;
}

int nvmlDeviceGetMaxMigDeviceCount(device *d, unsigned *out) {
    ALIVE(d);
    *out = d->mig ? MAX_SLICES : 0;
    return 0;
}

int nvmlDeviceGetMigDeviceHandleByIndex(device *d, unsigned index, device **out) {
    ALIVE(d);
    if (index >= (unsigned)d->slices) return NOT_FOUND;
    *out = d->slice[index];
    return 0;
}
