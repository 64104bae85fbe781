/*
 * A stand-in for vmcompute.dll that logs each call with its decoded arguments, one JSON object a line, and fails
 * on demand.  It also puts an emulation in place of kernel32's BackupRead and BackupWrite, whose stream framing is
 * real and whose effect on files is not (see emulation.c).
 *
 * Environment, read at each call:
 *   STANDIN_LOG         the file that lines are appended to; none: no log
 *   STANDIN_FAIL        NAME=HRESULT or NAME#N=HRESULT (the Nth call of that name), separated by blanks
 *   STANDIN_MOUNT_PATH  what GetLayerMountPath answers; none: the layer's path; "-": a length of 0
 *   STANDIN_TOMBSTONES  the deletions that ExportLayer writes, separated by "|"
 *   STANDIN_SYSTEMS     what HcsEnumerateComputeSystems answers; none: "[]"
 *   STANDIN_IMAGES      what GetBaseImages answers
 *   STANDIN_SIDE        a folder for what files can't hold here; if set, layers are merged (see merge.c)
 *   STANDIN_NO_EXIT     if set, a terminated compute system never says that it has exited
 */
#include "standin.h"

#include <objbase.h>

typedef struct {
    INT64 flavour;
    const WCHAR *home;
} driver_info;

typedef struct {
    GUID id;
    ULONG flags;
    const WCHAR *path;
} layer_descriptor;

/* -- files, as HCS would keep them ------------------------------------------------------------------ */

static BOOL is_folder(const WCHAR *path) {
    DWORD attributes = GetFileAttributesW(path);
    return attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY);
}

static void copy_tree(const WCHAR *source, const WCHAR *target) {
    CreateDirectoryW(target, NULL);
    walk_folder(source, copy_entry, (void *)target);
}

void copy_entry(const WCHAR *folder, WIN32_FIND_DATAW *found, void *target) {
    WCHAR from[4096], to[4096];
    join_path(from, 4096, folder, found->cFileName);
    join_path(to, 4096, target, found->cFileName);
    if (found->dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) copy_tree(from, to);
    else if (CopyFileW(from, to, FALSE)) emulation_copy(from, to);
}

static void remove_one(const WCHAR *folder, WIN32_FIND_DATAW *found, void *context) {
    (void)found, (void)context;
    WCHAR path[4096];
    join_path(path, 4096, folder, found->cFileName);
    remove_entry(path);
}

void remove_entry(const WCHAR *path) {
    SetFileAttributesW(path, FILE_ATTRIBUTE_NORMAL);
    if (!is_folder(path)) {
        DeleteFileW(path);
        return;
    }
    walk_folder(path, remove_one, NULL);
    RemoveDirectoryW(path);
}

static BOOL is_merging(void) {
    WCHAR folder[2048];
    return environment(L"STANDIN_SIDE", folder, 2048) != 0;
}

static HRESULT missing(const WCHAR *id) {
    return is_folder(id) ? S_OK : HRESULT_FROM_WIN32(ERROR_PATH_NOT_FOUND);
}

static void write_tombstones(const WCHAR *folder) {
    WCHAR path[4096], list[8192];
    char line[16384];
    join_path(path, 4096, folder, L"tombstones.txt");
    FILE *file = _wfopen(path, L"wb");
    if (!file) return;
    fputs("\xef\xbb\xbfVersion 1.0\n", file);
    if (environment(L"STANDIN_TOMBSTONES", list, 8192)) {
        for (WCHAR *part = wcstok(list, L"|"); part; part = wcstok(NULL, L"|")) {
            int size = WideCharToMultiByte(CP_UTF8, 0, part, -1, line, sizeof line, NULL, NULL);
            if (size > 0) fprintf(file, "\\%s\n", line);
        }
    }
    fclose(file);
}

/* -- what most calls have in common ------------------------------------------------------------------ */

static void begin(text *line, const char *function, const driver_info *info, const WCHAR *id) {
    begin_call(line, function);
    add_number(line, "flavour", info->flavour);
    add_string(line, "home", info->home);
    add_string(line, "id", id);
}

static void add_guid(text *line, const char *name, const GUID *guid) {
    add_format(line, "%s\"%s\": \"%08lx-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x\"", separator(line), name,
               guid->Data1, guid->Data2, guid->Data3, guid->Data4[0], guid->Data4[1], guid->Data4[2], guid->Data4[3],
               guid->Data4[4], guid->Data4[5], guid->Data4[6], guid->Data4[7]);
}

static void add_layers(text *line, const layer_descriptor *layers, size_t count) {
    add_number(line, "count", (INT64)count);
    add_format(line, ", \"layers\": [");
    for (size_t i = 0; i < count; i++) {
        add_format(line, i ? ", {" : "{");
        add_guid(line, "guid", &layers[i].id);
        add_number(line, "flags", layers[i].flags);
        add_string(line, "path", layers[i].path);
        add_format(line, "}");
    }
    add_format(line, "]");
}

static WCHAR *allocated(const WCHAR *value) {
    size_t size = (wcslen(value) + 1) * sizeof(WCHAR);
    WCHAR *copy = CoTaskMemAlloc(size);
    memcpy(copy, value, size);
    return copy;
}

#define EXPORT __declspec(dllexport) HRESULT WINAPI

/* -- layers ------------------------------------------------------------------------------------------- */

EXPORT NameToGuid(const WCHAR *name, GUID *guid) {
    text line;
    HRESULT result = scripted("NameToGuid", S_OK);
    if (SUCCEEDED(result)) {
        UINT64 hash[2] = {14695981039346656037ull, 1099511628211ull};
        for (const WCHAR *c = name; *c; c++) {
            hash[0] = (hash[0] ^ *c) * 1099511628211ull;
            hash[1] = (hash[1] ^ *c) * 14029467366897019727ull + hash[0];
        }
        memcpy(guid, hash, sizeof *guid);
    }
    begin_call(&line, "NameToGuid");
    add_string(&line, "name", name);
    if (SUCCEEDED(result)) add_guid(&line, "out", guid);
    return finish_call(&line, result);
}

EXPORT LayerExists(driver_info *info, const WCHAR *id, ULONG *exists) {
    text line;
    HRESULT result = scripted("LayerExists", S_OK);
    *exists = is_folder(id);
    begin(&line, "LayerExists", info, id);
    add_number(&line, "exists", *exists);
    return finish_call(&line, result);
}

/* In the form that lets names of devices, and names ending in dots and blanks, be removed. */
static void remove_layer(const WCHAR *path) {
    WCHAR whole[4096];
    _snwprintf(whole, 4096, wcsncmp(path, L"\\\\?\\", 4) ? L"\\\\?\\%ls" : L"%ls", path);
    remove_entry(whole);
}

static HRESULT make_folder(const WCHAR *path) {
    return CreateDirectoryW(path, NULL) ? S_OK : HRESULT_FROM_WIN32(GetLastError());
}

EXPORT CreateLayer(driver_info *info, const WCHAR *id, const WCHAR *parent) {
    text line;
    HRESULT result = scripted("CreateLayer", S_OK);
    if (SUCCEEDED(result)) result = make_folder(id);
    begin(&line, "CreateLayer", info, id);
    add_string(&line, "parent", parent);
    return finish_call(&line, result);
}

EXPORT CreateSandboxLayer(driver_info *info, const WCHAR *id, UINT64 parent, layer_descriptor *layers, size_t count) {
    text line;
    HRESULT result = scripted("CreateSandboxLayer", S_OK);
    if (SUCCEEDED(result)) result = make_folder(id);
    if (SUCCEEDED(result)) {
        WCHAR disk[4096];
        join_path(disk, 4096, id, L"sandbox.vhdx");
        FILE *file = _wfopen(disk, L"wb");
        if (file) fclose(file);
    }
    begin(&line, "CreateSandboxLayer", info, id);
    add_number(&line, "parent", (INT64)parent);
    add_layers(&line, layers, count);
    return finish_call(&line, result);
}

EXPORT ExpandSandboxSize(driver_info *info, const WCHAR *id, UINT64 size) {
    text line;
    HRESULT result = scripted("ExpandSandboxSize", S_OK);
    emulated_partition = (INT64)size;
    begin(&line, "ExpandSandboxSize", info, id);
    add_number(&line, "size", (INT64)size);
    return finish_call(&line, result);
}

EXPORT CopyLayer(driver_info *info, const WCHAR *id, const WCHAR *target, layer_descriptor *layers, size_t count) {
    text line;
    HRESULT result = scripted("CopyLayer", S_OK);
    if (SUCCEEDED(result)) copy_tree(id, target);
    begin(&line, "CopyLayer", info, id);
    add_string(&line, "target", target);
    add_layers(&line, layers, count);
    return finish_call(&line, result);
}

static HRESULT plain(const char *function, driver_info *info, const WCHAR *id, HRESULT result) {
    text line;
    begin(&line, function, info, id);
    return finish_call(&line, result);
}

EXPORT ActivateLayer(driver_info *info, const WCHAR *id) {
    return plain("ActivateLayer", info, id, scripted("ActivateLayer", missing(id)));
}

EXPORT DeactivateLayer(driver_info *info, const WCHAR *id) {
    return plain("DeactivateLayer", info, id, scripted("DeactivateLayer", S_OK));
}

EXPORT UnprepareLayer(driver_info *info, const WCHAR *id) {
    return plain("UnprepareLayer", info, id, scripted("UnprepareLayer", S_OK));
}

EXPORT DestroyLayer(driver_info *info, const WCHAR *id) {
    HRESULT result = scripted("DestroyLayer", S_OK);
    if (SUCCEEDED(result)) remove_layer(id);
    return plain("DestroyLayer", info, id, result);
}

static LONG preparing;

EXPORT PrepareLayer(driver_info *info, const WCHAR *id, layer_descriptor *layers, size_t count) {
    text line;
    HRESULT result = scripted("PrepareLayer", S_OK);
    if (InterlockedIncrement(&preparing) != 1) result = HRESULT_FROM_WIN32(ERROR_BUSY);
    Sleep(1);
    InterlockedDecrement(&preparing);
    begin(&line, "PrepareLayer", info, id);
    add_layers(&line, layers, count);
    return finish_call(&line, result);
}

EXPORT GetLayerMountPath(driver_info *info, const WCHAR *id, size_t *length, WCHAR *buffer) {
    text line;
    WCHAR answer[4096];
    HRESULT result = scripted("GetLayerMountPath", S_OK);
    size_t length_in = *length;
    if (!environment(L"STANDIN_MOUNT_PATH", answer, 4096)) {
        wcsncpy(answer, id, 4095);
        answer[4095] = 0;
    }
    BOOL written = FALSE;
    if (SUCCEEDED(result)) {
        *length = wcscmp(answer, L"-") ? wcslen(answer) + 1 : 0;
        if (buffer && length_in >= *length && *length) {
            wcscpy(buffer, answer);
            written = TRUE;
        } else if (buffer) {
            result = HRESULT_FROM_WIN32(ERROR_INSUFFICIENT_BUFFER);
        }
    }
    begin(&line, "GetLayerMountPath", info, id);
    add_number(&line, "length_in", (INT64)length_in);
    add_format(&line, ", \"buffer\": %s", buffer ? "true" : "false");
    if (SUCCEEDED(result)) add_number(&line, "length_out", (INT64)*length);
    if (written) add_string(&line, "out", buffer);
    return finish_call(&line, result);
}

static HRESULT transfer(const char *function, driver_info *info, const WCHAR *id, const WCHAR *path,
                        layer_descriptor *layers, size_t count, HRESULT result) {
    text line;
    begin(&line, function, info, id);
    add_string(&line, "path", path);
    add_layers(&line, layers, count);
    return finish_call(&line, result);
}

EXPORT ImportLayer(driver_info *info, const WCHAR *id, const WCHAR *path, layer_descriptor *layers, size_t count) {
    HRESULT result = scripted("ImportLayer", S_OK);
    if (SUCCEEDED(result)) {
        if (is_merging()) merge_import(id, path, count ? layers[0].path : NULL);
        else copy_tree(path, id);
    }
    return transfer("ImportLayer", info, id, path, layers, count, result);
}

EXPORT ExportLayer(driver_info *info, const WCHAR *id, const WCHAR *path, layer_descriptor *layers, size_t count) {
    HRESULT result = scripted("ExportLayer", missing(id));
    if (SUCCEEDED(result)) {
        if (is_merging()) {
            merge_export(id, path, count ? layers[0].path : NULL);
        } else {
            copy_tree(id, path);
            write_tombstones(path);
        }
    }
    return transfer("ExportLayer", info, id, path, layers, count, result);
}

static HRESULT process(const char *function, const WCHAR *path) {
    text line;
    HRESULT result = scripted(function, S_OK);
    begin_call(&line, function);
    add_string(&line, "path", path);
    return finish_call(&line, result);
}

EXPORT ProcessBaseImage(const WCHAR *path) { return process("ProcessBaseImage", path); }

EXPORT ProcessUtilityImage(const WCHAR *path) { return process("ProcessUtilityImage", path); }

EXPORT GrantVmAccess(const WCHAR *vm, const WCHAR *path) {
    text line;
    HRESULT result = scripted("GrantVmAccess", S_OK);
    begin_call(&line, "GrantVmAccess");
    add_string(&line, "vm", vm);
    add_string(&line, "path", path);
    return finish_call(&line, result);
}

EXPORT GetBaseImages(WCHAR **images) {
    text line;
    WCHAR answer[8192];
    HRESULT result = scripted("GetBaseImages", S_OK);
    if (!environment(L"STANDIN_IMAGES", answer, 8192)) wcscpy(answer, L"{\"Images\": []}");
    *images = SUCCEEDED(result) ? allocated(answer) : NULL;
    begin_call(&line, "GetBaseImages");
    return finish_call(&line, result);
}

/* -- compute systems ---------------------------------------------------------------------------------- */

typedef void(CALLBACK *notification)(ULONG type, UINT64 context, UINT64 status, const WCHAR *data);

static struct {
    notification callback;
    UINT64 context;
} watcher;

EXPORT HcsEnumerateComputeSystems(const WCHAR *query, WCHAR **systems, WCHAR **error) {
    text line;
    WCHAR answer[8192];
    HRESULT result = scripted("HcsEnumerateComputeSystems", S_OK);
    if (!environment(L"STANDIN_SYSTEMS", answer, 8192)) wcscpy(answer, L"[]");
    *systems = SUCCEEDED(result) ? allocated(answer) : NULL;
    *error = FAILED(result) ? allocated(L"{\"Error\": -1}") : NULL;
    begin_call(&line, "HcsEnumerateComputeSystems");
    add_string(&line, "query", query);
    return finish_call(&line, result);
}

EXPORT HcsOpenComputeSystem(const WCHAR *id, HANDLE *system, WCHAR **error) {
    text line;
    HRESULT result = scripted("HcsOpenComputeSystem", S_OK);
    *system = SUCCEEDED(result) ? (HANDLE)0x51 : NULL;
    *error = NULL;
    begin_call(&line, "HcsOpenComputeSystem");
    add_string(&line, "id", id);
    return finish_call(&line, result);
}

EXPORT HcsGetComputeSystemProperties(HANDLE system, const WCHAR *query, WCHAR **properties, WCHAR **error) {
    text line;
    HRESULT result = scripted("HcsGetComputeSystemProperties", S_OK);
    *properties = SUCCEEDED(result) ? allocated(L"{}") : NULL;
    *error = NULL;
    begin_call(&line, "HcsGetComputeSystemProperties");
    add_number(&line, "system", (INT64)system);
    add_string(&line, "query", query);
    return finish_call(&line, result);
}

EXPORT HcsRegisterComputeSystemCallback(HANDLE system, notification callback, UINT64 context, HANDLE *handle) {
    text line;
    HRESULT result = scripted("HcsRegisterComputeSystemCallback", S_OK);
    if (SUCCEEDED(result)) {
        watcher.callback = callback;
        watcher.context = context;
        *handle = (HANDLE)0xcb;
    }
    begin_call(&line, "HcsRegisterComputeSystemCallback");
    add_number(&line, "system", (INT64)system);
    return finish_call(&line, result);
}

EXPORT HcsUnregisterComputeSystemCallback(HANDLE handle) {
    text line;
    watcher.callback = NULL;
    begin_call(&line, "HcsUnregisterComputeSystemCallback");
    add_number(&line, "handle", (INT64)handle);
    return finish_call(&line, scripted("HcsUnregisterComputeSystemCallback", S_OK));
}

static DWORD WINAPI notify(void *unused) {
    (void)unused;
    Sleep(20);
    if (watcher.callback) watcher.callback(1, watcher.context, 0, L"{}");
    return 0;
}

EXPORT HcsTerminateComputeSystem(HANDLE system, const WCHAR *options, WCHAR **error) {
    text line;
    WCHAR quiet[8];
    HRESULT result = scripted("HcsTerminateComputeSystem", (HRESULT)0xC0370103);
    *error = NULL;
    BOOL ends = result == S_OK || result == (HRESULT)0xC0370103;
    if (ends && !environment(L"STANDIN_NO_EXIT", quiet, 8)) CloseHandle(CreateThread(NULL, 0, notify, NULL, 0, NULL));
    begin_call(&line, "HcsTerminateComputeSystem");
    add_number(&line, "system", (INT64)system);
    add_string(&line, "options", options);
    return finish_call(&line, result);
}

EXPORT HcsCloseComputeSystem(HANDLE system) {
    text line;
    begin_call(&line, "HcsCloseComputeSystem");
    add_number(&line, "system", (INT64)system);
    return finish_call(&line, scripted("HcsCloseComputeSystem", S_OK));
}

EXPORT HNSCall(const WCHAR *method, const WCHAR *path, const WCHAR *object, WCHAR **response) {
    (void)method, (void)path, (void)object;
    *response = NULL;
    return E_NOTIMPL;
}

BOOL WINAPI DllMain(HINSTANCE instance, DWORD reason, void *reserved) {
    (void)reserved;
    if (reason == DLL_PROCESS_ATTACH) {
        DisableThreadLibraryCalls(instance);
        emulation_start();
    }
    return TRUE;
}
