/* Qudao plugin ABI 1.1. Apache-2.0.
 *
 * A plugin is a shared library that exports two symbols: the data QUDAO_PLUGIN_ABI and the
 * function qudao_plugin_entry. Structs only ever grow at their end; look at a field only after
 * struct_size has said that it is there (QD_HAS). Every pointer is borrowed for the duration of
 * the call: copy what you keep, free nothing that you did not allocate. Nothing may unwind
 * (throw, longjmp) across a call. Each request ends with exactly one QD_EV_END or QD_EV_ERROR.
 */
#ifndef QUDAO_PLUGIN_H
#define QUDAO_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#define QD_ASSERT(condition, text) static_assert(condition, text)
#else
#define QD_ASSERT(condition, text) _Static_assert(condition, text)
#endif

#define QD_MAGIC 0x004c504f41445551ULL /* "QUDAOPL\0", little endian */
#define QD_ABI_MAJOR 1u
#define QD_ABI_MINOR 1u
#define QD_WINDOW 256u
#define QD_EVENT_BYTES_MAX 65536u

enum { QD_F_PANIC_UNWIND = 1, QD_F_BLOCKING = 2, QD_F_ASYNC = 4 };

enum {
    QD_OK = 0,
    QD_E_CANCELLED = -1,  /* stop this request */
    QD_E_AGAIN = -2,      /* no credit, nothing taken: wait_credit, or park until resume */
    QD_E_PANIC = -3,
    QD_E_INVALID = -4,
    QD_E_INTERNAL = -5,
    QD_E_ABI = -6,
    QD_E_OVERLOADED = -7,
    QD_E_UNREACHABLE = -8, /* of an exchange: no connection */
    QD_E_TIMEOUT = -9,     /* of an exchange: no connection in time */
    QD_E_BROKEN = -10,     /* of an exchange: the connection broke */
    QD_E_STALLED = -11     /* of an exchange: the other side was silent for too long */
};

enum {
    QD_EV_TOKEN = 1,    /* data: UTF-8 text */
    QD_EV_DATA = 2,     /* data: JSON delta */
    QD_EV_USAGE = 3,    /* data: JSON {"input_tokens":n,"output_tokens":n}; the last one counts */
    QD_EV_PROGRESS = 4, /* data: text for the operator */
    QD_EV_END = 5,      /* data: stop | length | tool_calls | content_filter */
    QD_EV_ERROR = 6     /* data: message; extra: JSON {"kind":"..."}; code: QD_E_* */
};

enum { QD_EF_REASONING = 1 };

/* What comes of an exchange that the host makes for a request, and of the request's timer. */
enum {
    QD_NET_HEAD = 1,  /* status, headers */
    QD_NET_BODY = 2,  /* data: more of the body; comes for an http_read */
    QD_NET_END = 3,   /* the answer is whole; comes for an http_read */
    QD_NET_ERROR = 4, /* code: QD_E_*; data: what happened */
    QD_NET_TIMER = 5
};

enum { QD_HTTP_PUBLIC = 1 }; /* only to addresses that are open to everybody */

enum {
    QD_KIND_CHAT = 1,
    QD_KIND_COMPLETE = 2,
    QD_KIND_EMBED = 3,
    QD_KIND_CLASSIFY = 4,
    QD_KIND_DETECT = 5,
    QD_KIND_TRANSCRIBE = 6,
    QD_KIND_TOKENIZE = 7
};

typedef struct { const uint8_t *ptr; size_t len; } QdBytes; /* ptr may be NULL when len is 0 */

typedef struct {
    uint64_t magic;
    uint32_t struct_size;
    uint16_t abi_major, abi_minor;
    uint32_t flags, reserved;
    char sdk[32];
} QdAbiInfo;

typedef struct {
    uint32_t struct_size;
    uint16_t kind, flags;
    uint32_t index, token_id;
    float logprob;
    int32_t code;
    QdBytes data, extra;
} QdEvent;

typedef struct {
    uint32_t struct_size, kind;
    uint64_t id, deadline_ns; /* CLOCK_MONOTONIC; 0 for none */
    QdBytes payload;          /* JSON that names its schema: "qudao.chat.v1" */
    const uint32_t *cancel;   /* read it atomically; non-zero: stop */
    QdBytes trace;            /* W3C traceparent, or empty */
} QdRequest;

typedef struct { int32_t code; uint32_t len; char msg[1016]; } QdError;

typedef struct { QdBytes name, value; } QdHeader;

typedef struct {
    uint32_t struct_size, flags; /* QD_HTTP_* */
    uint32_t number;             /* comes back in the events */
    uint32_t header_count;
    uint32_t connect_ms;
    uint32_t head_ms, idle_ms, total_ms; /* 0: as long as it takes */
    QdBytes method, url;
    const QdHeader *headers;
    QdBytes body;
} QdHttp;

typedef struct {
    uint32_t struct_size;
    uint16_t kind, status;
    uint32_t number;
    int32_t code;
    const QdHeader *headers;
    uint32_t header_count, reserved;
    QdBytes data;
} QdNetEvent;

typedef struct {
    uint32_t struct_size, abi_minor;
    void *ctx;
    /* the target of a line about a request is its `trace`; otherwise any name */
    void (*log)(void *ctx, uint32_t level, QdBytes target, QdBytes message);
    int32_t (*emit)(void *ctx, uint64_t request, const QdEvent *events, uint32_t n);
    int32_t (*wait_credit)(void *ctx, uint64_t request, uint32_t timeout_ms);
    /* since 1.1: the host makes HTTP exchanges, one at a time for each request, and wakes it.
       Events come through `net`, from any thread, perhaps from within `http` or `timer` */
    int32_t (*http)(void *ctx, uint64_t request, const QdHttp *exchange);
    void (*http_read)(void *ctx, uint64_t request);
    void (*http_stop)(void *ctx, uint64_t request);
    void (*timer)(void *ctx, uint64_t request, uint64_t ms);
} QdHostApi;

typedef struct {
    uint32_t struct_size, abi_minor;
    int32_t (*create)(const QdHostApi *host, QdBytes config, void **instance, QdError *error);
    void (*destroy)(void *instance);
    int32_t (*run)(void *instance, const QdRequest *request, QdError *error);
    int32_t (*submit)(void *instance, const QdRequest *request, QdError *error);
    void (*cancel)(void *instance, uint64_t request);
    void (*resume)(void *instance, uint64_t request, uint32_t credit);
    int32_t (*drain)(void *instance, uint64_t deadline_ns);
    /* since 1.1; the request may be over already */
    void (*net)(void *instance, uint64_t request, const QdNetEvent *event);
} QdPluginApi;

#define QD_HAS(table, field) \
    ((table)->struct_size >= offsetof(QdPluginApi, field) + sizeof((table)->field) && (table)->field)
#define QD_HOST_HAS(table, field) \
    ((table)->struct_size >= offsetof(QdHostApi, field) + sizeof((table)->field) && (table)->field)

QD_ASSERT(sizeof(QdBytes) == 16, "QdBytes");
QD_ASSERT(sizeof(QdAbiInfo) == 56 && offsetof(QdAbiInfo, flags) == 16, "QdAbiInfo");
QD_ASSERT(sizeof(QdEvent) == 56 && offsetof(QdEvent, data) == 24, "QdEvent");
QD_ASSERT(sizeof(QdRequest) == 64 && offsetof(QdRequest, cancel) == 40, "QdRequest");
QD_ASSERT(sizeof(QdError) == 1024, "QdError");
QD_ASSERT(sizeof(QdHeader) == 32, "QdHeader");
QD_ASSERT(sizeof(QdHttp) == 88 && offsetof(QdHttp, body) == 72, "QdHttp");
QD_ASSERT(sizeof(QdNetEvent) == 48 && offsetof(QdNetEvent, data) == 32, "QdNetEvent");
QD_ASSERT(sizeof(QdHostApi) == 72 && offsetof(QdHostApi, emit) == 24, "QdHostApi");
QD_ASSERT(sizeof(QdPluginApi) == 72 && offsetof(QdPluginApi, run) == 24, "QdPluginApi");

#define QD_EXPORT __attribute__((visibility("default")))

QD_EXPORT extern const QdAbiInfo QUDAO_PLUGIN_ABI;
QD_EXPORT const QdPluginApi *qudao_plugin_entry(uint32_t host_major, uint32_t host_minor);

#ifdef __cplusplus
}
#endif
#endif
