/*
 * The streaming calls of Server 2016's previews: what an import is given is kept in memory, for an export of the
 * same layer to give back.
 */
#include "standin.h"

#include <objbase.h>

typedef struct entry {
    WCHAR *name;
    FILE_BASIC_INFO info;
    BOOL deleted;
    char *data;
    size_t size, at;
    struct entry *next;
} entry;

typedef struct {
    WCHAR *id;
    entry *first, *last;
} import;

/* What has been imported, by the layer's path: what an export gives. */
static import *imports[16];

static void log_context(const char *function, const WCHAR *name, const FILE_BASIC_INFO *info, INT64 size, HRESULT result) {
    text line;
    begin_call(&line, function);
    if (name) add_string(&line, "name", name);
    if (info) add_number(&line, "attributes", info->FileAttributes);
    if (size >= 0) add_number(&line, "size", size);
    finish_call(&line, result);
}

#define EXPORT __declspec(dllexport) HRESULT WINAPI

EXPORT ImportLayerBegin(void *info, const WCHAR *id, void *layers, size_t count, import **context) {
    text line;
    (void)info, (void)layers;
    HRESULT result = scripted("ImportLayerBegin", S_OK);
    if (SUCCEEDED(result)) {
        *context = calloc(1, sizeof **context);
        (*context)->id = _wcsdup(id);
    }
    begin_call(&line, "ImportLayerBegin");
    add_string(&line, "id", id);
    add_number(&line, "count", (INT64)count);
    return finish_call(&line, result);
}

EXPORT ImportLayerNext(import *context, const WCHAR *name, const FILE_BASIC_INFO *info) {
    HRESULT result = scripted("ImportLayerNext", S_OK);
    if (SUCCEEDED(result)) {
        entry *e = calloc(1, sizeof *e);
        e->name = _wcsdup(name);
        if (info) e->info = *info;
        e->deleted = !info;
        if (context->last) context->last->next = e;
        else context->first = e;
        context->last = e;
    }
    log_context("ImportLayerNext", name, info, -1, result);
    return result;
}

EXPORT ImportLayerWrite(import *context, const char *data, size_t size) {
    HRESULT result = scripted("ImportLayerWrite", S_OK);
    entry *e = context->last;
    if (SUCCEEDED(result) && e) {
        e->data = realloc(e->data, e->size + size);
        memcpy(e->data + e->size, data, size);
        e->size += size;
    }
    log_context("ImportLayerWrite", NULL, NULL, (INT64)size, result);
    return result;
}

EXPORT ImportLayerEnd(import *context) {
    HRESULT result = scripted("ImportLayerEnd", S_OK);
    CreateDirectoryW(context->id, NULL);
    for (int i = 0; i < 16; i++) {
        if (!imports[i] || !wcscmp(imports[i]->id, context->id)) {
            imports[i] = context;
            break;
        }
    }
    log_context("ImportLayerEnd", NULL, NULL, -1, result);
    return result;
}

typedef struct {
    entry *next, *current;
} export;

EXPORT ExportLayerBegin(void *info, const WCHAR *id, void *layers, size_t count, export **context) {
    text line;
    (void)info, (void)layers;
    HRESULT result = scripted("ExportLayerBegin", S_OK);
    if (SUCCEEDED(result)) {
        *context = calloc(1, sizeof **context);
        for (int i = 0; i < 16 && imports[i]; i++)
            if (!wcscmp(imports[i]->id, id)) (*context)->next = imports[i]->first;
    }
    begin_call(&line, "ExportLayerBegin");
    add_string(&line, "id", id);
    add_number(&line, "count", (INT64)count);
    return finish_call(&line, result);
}

EXPORT ExportLayerNext(export *context, WCHAR **name, FILE_BASIC_INFO *info, INT64 *size, ULONG *deleted) {
    HRESULT result = scripted("ExportLayerNext", S_OK);
    entry *e = context->next;
    if (SUCCEEDED(result) && !e) result = HRESULT_FROM_WIN32(ERROR_NO_MORE_FILES);
    if (SUCCEEDED(result)) {
        size_t room = (wcslen(e->name) + 1) * sizeof(WCHAR);
        *name = CoTaskMemAlloc(room);
        memcpy(*name, e->name, room);
        *info = e->info;
        *deleted = e->deleted;
        *size = 0;
        for (size_t at = 0; at + 20 <= e->size;) {
            UINT64 length = *(UINT64 *)(e->data + at + 8);
            if (*(UINT32 *)(e->data + at) == 1) *size = (INT64)length;
            at += 20 + *(UINT32 *)(e->data + at + 16) + (size_t)length;
        }
        e->at = 0;
        context->current = e;
        context->next = e->next;
    }
    log_context("ExportLayerNext", SUCCEEDED(result) ? *name : NULL, NULL, -1, result);
    return result;
}

EXPORT ExportLayerRead(export *context, char *data, size_t room, ULONG *count) {
    HRESULT result = scripted("ExportLayerRead", S_OK);
    entry *e = context->current;
    size_t size = e->size - e->at < room ? e->size - e->at : room;
    memcpy(data, e->data + e->at, size);
    e->at += size;
    *count = (ULONG)size;
    log_context("ExportLayerRead", NULL, NULL, (INT64)size, result);
    return result;
}

EXPORT ExportLayerEnd(export *context) {
    free(context);
    log_context("ExportLayerEnd", NULL, NULL, -1, S_OK);
    return scripted("ExportLayerEnd", S_OK);
}
