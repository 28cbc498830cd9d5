/* A Qudao plugin in C: answers every request with one line. */
#include "qudao_plugin.h"

#include <stdlib.h>
#include <string.h>

typedef struct { const QdHostApi *host; } Shout;

static QdBytes bytes(const char *text) {
    QdBytes out = { (const uint8_t *)text, strlen(text) };
    return out;
}

static QdEvent event(uint16_t kind, const char *data, const char *extra) {
    QdEvent out;
    memset(&out, 0, sizeof out);
    out.struct_size = sizeof out;
    out.kind = kind;
    out.data = bytes(data);
    out.extra = bytes(extra);
    return out;
}

static int32_t create(const QdHostApi *host, QdBytes config, void **instance, QdError *error) {
    (void)config;
    if (!QD_HOST_HAS(host, emit) || !QD_HOST_HAS(host, wait_credit)) {
        error->code = QD_E_ABI;
        return QD_E_ABI;
    }
    Shout *shout = malloc(sizeof *shout);
    if (!shout) return QD_E_INTERNAL;
    shout->host = host;
    *instance = shout;
    return QD_OK;
}

static void destroy(void *instance) { free(instance); }

static int32_t run(void *instance, const QdRequest *request, QdError *error) {
    static const char *const words[] = { "HELLO ", "FROM ", "C" };
    const QdHostApi *host = ((Shout *)instance)->host;
    (void)error;
    for (size_t at = 0; at < sizeof words / sizeof *words; at++) {
        QdEvent token = event(QD_EV_TOKEN, words[at], "");
        int32_t code;
        while ((code = host->emit(host->ctx, request->id, &token, 1)) == QD_E_AGAIN) {
            if (host->wait_credit(host->ctx, request->id, 1000) == QD_E_CANCELLED) return QD_OK;
        }
        if (code < 0) break;
    }
    QdEvent end = event(QD_EV_END, "stop", "{\"input_tokens\":1,\"output_tokens\":3}");
    host->emit(host->ctx, request->id, &end, 1);
    return QD_OK;
}

static const QdPluginApi API = {
    .struct_size = sizeof(QdPluginApi),
    .abi_minor = QD_ABI_MINOR,
    .create = create,
    .destroy = destroy,
    .run = run,
};

QD_EXPORT const QdAbiInfo QUDAO_PLUGIN_ABI = {
    .magic = QD_MAGIC,
    .struct_size = sizeof(QdAbiInfo),
    .abi_major = QD_ABI_MAJOR,
    .abi_minor = QD_ABI_MINOR,
    .flags = QD_F_BLOCKING,
    .sdk = "C",
};

QD_EXPORT const QdPluginApi *qudao_plugin_entry(uint32_t host_major, uint32_t host_minor) {
    (void)host_minor;
    return host_major == QD_ABI_MAJOR ? &API : NULL;
}
