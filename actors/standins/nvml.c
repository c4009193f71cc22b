/* A stand-in for NVIDIA's management library, libnvidia-ml.so.1: tells of the cards that a text file describes, so that
 * whatever reads NVML (nvidia-ml-py, Ray) meets them. It is built from this file on the machine that pretends.
 *
 * The file is named by SHARDYARD_STANDIN_NVML and is read again whenever it changes. One card per line:
 *     NAME|key=value key=value ...
 * `actors/standins/nvml.py` writes it and says what the keys mean. A key that is missing is "not supported". A line with
 * the key `parent` is a MIG instance of the card with that UUID.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, TIMEOUT = 10, NO_LIBRARY = 12, TOO_SMALL = 7, LOST = 15 };
enum { CARDS = 64, LINE = 1024, XID_EVENT = 8 };

typedef unsigned int u32;
typedef unsigned long long u64;
typedef struct card { char line[LINE], uuid[96]; long reported_xid; } card;
typedef card *device;

typedef struct { char legacy[16]; u32 domain, bus, slot, device_id, subsystem; char bus_id[32]; } pci_info;
typedef struct { u64 total, free, used; } memory_1;
typedef struct { u32 version; u64 total, reserved, free, used; } memory_2;
typedef struct { u32 gpu, memory; } utilization;
typedef struct { u32 multiprocessors, shared[5], gpu_slices, compute_slices; u64 mib; } attributes;
typedef struct { u32 field, scope; long long at, latency; int type, state; union { u32 whole; u64 room; } value; } field;
typedef struct { unsigned char cluster[16]; int status; u32 clique, state; } fabric;
typedef struct { device card; u64 type, data; u32 gpu_instance, compute_instance; } event;

/* A handle is a place in `cards` and stays a card's own while the process lives; `listed` is the file's order. */
static card cards[CARDS];
static device listed[CARDS];
static u32 count;
static struct stat last;

/* The value of a key, or NULL; `size` gets its length. */
static const char *word(const char *line, const char *key, size_t *size)
{
    const char *at = strchr(line, '|');
    size_t length = strlen(key);
    while (at && *at) {
        at++;
        if (!strncmp(at, key, length) && at[length] == '=') {
            at += length + 1;
            *size = strcspn(at, " ");
            return at;
        }
        at = strchr(at, ' ');
    }
    return NULL;
}

static device place_of(const char *line)
{
    char uuid[sizeof cards[0].uuid] = "?";
    size_t size;
    const char *at = word(line, "uuid", &size);
    if (at)
        snprintf(uuid, sizeof uuid, "%.*s", (int)size, at);
    for (u32 k = 0; k < CARDS; k++) {
        if (!cards[k].uuid[0])
            strcpy(cards[k].uuid, uuid);
        if (!strcmp(cards[k].uuid, uuid) && !cards[k].line[0])
            return &cards[k];
    }
    return NULL;
}

static int load(void)
{
    const char *path = getenv("SHARDYARD_STANDIN_NVML");
    struct stat now;
    if (!path || stat(path, &now))
        return NO_LIBRARY;
    if (now.st_ino == last.st_ino && now.st_size == last.st_size &&
        now.st_mtim.tv_sec == last.st_mtim.tv_sec && now.st_mtim.tv_nsec == last.st_mtim.tv_nsec)
        return OK;
    FILE *file = fopen(path, "r");
    if (!file)
        return NO_LIBRARY;
    char line[LINE];
    size_t size;
    device place;
    count = 0;
    for (u32 k = 0; k < CARDS; k++)
        cards[k].line[0] = 0;
    while (count < CARDS && fgets(line, LINE, file)) {
        line[strcspn(line, "\n")] = 0;
        if (strchr(line, '|') && (place = place_of(line)) != NULL) {
            memcpy(place->line, line, LINE);
            if (!word(line, "parent", &size))
                listed[count++] = place;
        }
    }
    fclose(file);
    last = now;
    return OK;
}

static long number(device card, const char *key, long missing)
{
    size_t size;
    const char *at = word(card->line, key, &size);
    return at ? strtol(at, NULL, 0) : missing;
}

/* Every call on a card begins with this: the file may have changed, and the card may be lost or gone by now. */
static int usable(device card)
{
    if (load())
        return NO_LIBRARY;
    if (card < cards || card >= cards + CARDS)
        return INVALID;
    return !card->line[0] || number(card, "lost", 0) ? LOST : OK;
}

static int text(device card, const char *key, char *out, u32 room)
{
    size_t size;
    const char *at = word(card->line, key, &size);
    if (!at)
        return UNSUPPORTED;
    if (size + 1 > room)
        return TOO_SMALL;
    memcpy(out, at, size);
    out[size] = 0;
    return OK;
}

static int tell(device card, const char *key, u32 *out)
{
    int state = usable(card);
    long value = state ? -1 : number(card, key, -1);
    if (state)
        return state;
    if (value < 0)
        return UNSUPPORTED;
    *out = (u32)value;
    return OK;
}

static void address(const char *given, pci_info *out)
{
    u32 function = 0;
    memset(out, 0, sizeof *out);
    sscanf(given, "%x:%x:%x.%x", &out->domain, &out->bus, &out->slot, &function);
    snprintf(out->bus_id, sizeof out->bus_id, "%08X:%02X:%02X.%X", out->domain, out->bus, out->slot, function);
    snprintf(out->legacy, sizeof out->legacy, "%04X:%02X:%02X.%X", out->domain & 0xffff, out->bus & 0xff,
             out->slot & 0xff, function & 7);
}

int nvmlInit_v2(void) { return load(); }
int nvmlInitWithFlags(u32 flags) { (void)flags; return load(); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == LOST ? "GPU is lost" : "stand-in"; }
int nvmlSystemGetDriverVersion(char *out, u32 room) { return snprintf(out, room, "580.00-standin") < 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { *out = 13000; return OK; }
int nvmlDeviceGetCount_v2(u32 *out) { int state = load(); *out = count; return state; }

int nvmlDeviceGetHandleByIndex_v2(u32 index, device *out)
{
    if (load() || index >= count)
        return INVALID;
    *out = listed[index];
    return OK;
}

int nvmlDeviceGetName(device card, char *out, u32 room)
{
    int state = usable(card);
    size_t size = strcspn(card->line, "|");
    if (state && state != LOST)
        return state;
    if (size + 1 > room)
        return TOO_SMALL;
    memcpy(out, card->line, size);
    out[size] = 0;
    return OK;
}

int nvmlDeviceGetUUID(device card, char *out, u32 room) { return text(card, "uuid", out, room); }
int nvmlDeviceGetSerial(device card, char *out, u32 room) { return text(card, "serial", out, room); }

int nvmlDeviceGetPciInfo_v3(device card, pci_info *out)
{
    char given[32];
    int state = text(card, "pci", given, sizeof given);
    if (!state) {
        address(given, out);
        out->device_id = (u32)number(card, "device", 0) << 16 | 0x10de;
    }
    return state;
}

int nvmlDeviceGetMemoryInfo(device card, memory_1 *out)
{
    int state = usable(card);
    long total = state ? -1 : number(card, "mib", -1);
    if (state || total < 0)
        return state ? state : UNSUPPORTED;
    out->total = (u64)total << 20;
    out->used = (u64)number(card, "used_mib", 0) << 20;
    out->free = out->total - out->used;
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(device card, memory_2 *out)
{
    memory_1 plain;
    int state = nvmlDeviceGetMemoryInfo(card, &plain);
    if (!state) {
        out->total = plain.total;
        out->reserved = 0;
        out->free = plain.free;
        out->used = plain.used;
    }
    return state;
}

int nvmlDeviceGetUtilizationRates(device card, utilization *out)
{
    out->memory = 0;
    return tell(card, "busy", &out->gpu);
}

int nvmlDeviceGetCudaComputeCapability(device card, int *major, int *minor)
{
    long value = number(card, "capability", -1);
    *major = (int)(value / 10);
    *minor = (int)(value % 10);
    return value < 0 ? UNSUPPORTED : usable(card);
}

int nvmlDeviceGetTemperatureThreshold(device card, int which, u32 *out)
{
    return which == 1 ? tell(card, "slowdown_c", out) : UNSUPPORTED;
}

int nvmlDeviceGetTotalEccErrors(device card, int kind, int counter, u64 *out)
{
    u32 value = 0;
    int state = kind == 1 && counter == 0 ? tell(card, "ecc", &value) : UNSUPPORTED;
    *out = value;
    return state;
}

int nvmlDeviceGetRemappedRows(device card, u32 *corrected, u32 *uncorrected, u32 *pending, u32 *failed)
{
    *corrected = *uncorrected = *failed = 0;
    return tell(card, "remap_pending", pending);
}

int nvmlDeviceGetCurrentClocksEventReasons(device card, u64 *out)
{
    u32 value = 0;
    int state = tell(card, "reasons", &value);
    *out = value;
    return state;
}

int nvmlDeviceGetMaxClockInfo(device card, int which, u32 *out) { return tell(card, which == 1 ? "sm_mhz" : "memory_mhz", out); }
int nvmlDeviceGetClockInfo(device card, int which, u32 *out) { return which == 1 ? tell(card, "clock_mhz", out) : UNSUPPORTED; }
int nvmlDeviceGetTemperature(device card, int sensor, u32 *out) { (void)sensor; return tell(card, "temperature_c", out); }
int nvmlDeviceGetPowerUsage(device card, u32 *out) { return tell(card, "power_mw", out); }
int nvmlDeviceGetEnforcedPowerLimit(device card, u32 *out) { return tell(card, "limit_mw", out); }
int nvmlDeviceGetNumaNodeId(device card, u32 *out) { return tell(card, "numa", out); }

int nvmlDeviceGetNvLinkState(device card, u32 link, u32 *out)
{
    *out = 1;
    return (long)link < number(card, "links", 0) ? OK : UNSUPPORTED;
}

int nvmlDeviceGetNvLinkVersion(device card, u32 link, u32 *out) { (void)link; return tell(card, "nvlink", out); }

int nvmlDeviceGetNvLinkRemotePciInfo_v2(device card, u32 link, pci_info *out)
{
    char given[32] = "0000:05:00.0";
    (void)link;
    text(card, "peer", given, sizeof given);
    address(given, out);
    return usable(card);
}

int nvmlDeviceGetNvLinkRemoteDeviceType(device card, u32 link, u32 *out)
{
    char given[32];
    (void)link;
    *out = text(card, "peer", given, sizeof given) ? 2 : 0;
    return usable(card);
}

int nvmlDeviceGetTopologyCommonAncestor(device one, device other, int *out)
{
    *out = number(one, "numa", 0) == number(other, "numa", 0) ? 40 : 50;
    return usable(one);
}

/* The instance of a card at a place among its instances, or how many there are. */
static long instance(device card, long index, device *out)
{
    char parent[sizeof card->uuid];
    long seen = 0;
    for (u32 k = 0; k < CARDS; k++) {
        if (!cards[k].line[0] || text(&cards[k], "parent", parent, sizeof parent) || strcmp(parent, card->uuid))
            continue;
        if (out && seen == index)
            *out = &cards[k];
        seen++;
    }
    return seen;
}

int nvmlDeviceGetMigMode(device card, u32 *now, u32 *pending)
{
    int state = tell(card, "mig", now);
    *pending = *now;
    return state;
}

int nvmlDeviceGetMaxMigDeviceCount(device card, u32 *out) { *out = (u32)instance(card, -1, NULL); return usable(card); }

int nvmlDeviceGetMigDeviceHandleByIndex(device card, u32 index, device *out)
{
    return (long)index < instance(card, index, out) ? OK : INVALID;
}

int nvmlDeviceGetGpuInstanceId(device card, u32 *out) { return tell(card, "gi", out); }
int nvmlDeviceGetComputeInstanceId(device card, u32 *out) { return tell(card, "ci", out); }

int nvmlDeviceGetAttributes_v2(device card, attributes *out)
{
    memset(out, 0, sizeof *out);
    out->mib = (u64)number(card, "mib", 0);
    return tell(card, "slices", &out->compute_slices);
}

int nvmlDeviceGetFieldValues(device card, int many, field *out)
{
    for (int k = 0; k < many; k++) {
        const char *key = out[k].field == 230 ? "recovery" : out[k].field == 90 ? "nvlink_mbyte_per_s" : "?";
        out[k].state = tell(card, key, &out[k].value.whole);
    }
    return usable(card);
}

int nvmlDeviceGetGpuFabricInfo(device card, fabric *out)
{
    memset(out, 0, sizeof *out);
    return tell(card, "fabric", &out->state);
}

int nvmlEventSetCreate(void **out) { *out = cards; return OK; }
int nvmlEventSetFree(void *set) { (void)set; return OK; }
int nvmlDeviceRegisterEvents(device card, u64 types, void *set) { (void)types; (void)set; return usable(card); }

/* An Xid is reported once, when it appears in the file. */
int nvmlEventSetWait_v2(void *set, event *out, u32 milliseconds)
{
    (void)set, (void)milliseconds;
    if (load())
        return NO_LIBRARY;
    for (u32 k = 0; k < count; k++) {
        long xid = number(listed[k], "xid", 0), before = listed[k]->reported_xid;
        listed[k]->reported_xid = xid;
        if (xid && xid != before) {
            *out = (event){listed[k], XID_EVENT, (u64)xid, 0xffffffffu, 0xffffffffu};
            return OK;
        }
    }
    return TIMEOUT;
}
