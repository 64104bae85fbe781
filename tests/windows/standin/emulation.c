/*
 * An emulation of BackupRead and BackupWrite, which Wine does not have.
 *
 * Framing is real: BackupWrite parses the streams that it is given, in pieces of any size, and logs them with the
 * digest of all bytes; BackupRead frames what it finds.  The effect on files is not: data goes into the file, and
 * the file's times are put back afterwards, as NTFS keeps times that were set through the same handle.  All other
 * streams are kept as they came in a side file, if STANDIN_SIDE names a folder for these; BackupRead gives them
 * back.  Without that folder BackupRead gives data alone.
 */
#include "sha1.h"
#include "standin.h"

#define HEADER_SIZE 20
#define HEAD_SIZE 64

typedef struct {
    char *data;
    size_t size, room;
} bytes;

static void append(bytes *to, const void *data, size_t size) {
    if (to->size + size > to->room) {
        to->room = (to->size + size) * 2;
        to->data = realloc(to->data, to->room);
    }
    memcpy(to->data + to->size, data, size);
    to->size += size;
}

static void add_hex(text *line, const BYTE *data, size_t size) {
    for (size_t i = 0; i < size; i++) add_format(line, "%02x", data[i]);
}

static void final_path(HANDLE file, WCHAR *path, DWORD room) {
    DWORD size = GetFinalPathNameByHandleW(file, path, room, 0);
    if (!size || size >= room) wcscpy(path, L"?");
}

/* -- side files --------------------------------------------------------------------------------------- */

static BOOL side_path(HANDLE file, WCHAR *path, size_t room) {
    WCHAR folder[2048];
    BY_HANDLE_FILE_INFORMATION info;
    if (!environment(L"STANDIN_SIDE", folder, 2048) || !GetFileInformationByHandle(file, &info)) return FALSE;
    _snwprintf(path, room, L"%ls\\%08lx%08lx", folder, info.nFileIndexHigh, info.nFileIndexLow);
    return TRUE;
}

static void write_side(HANDLE file, const bytes *kept) {
    WCHAR path[4096];
    if (!side_path(file, path, 4096)) return;
    FILE *side = _wfopen(path, L"wb");
    if (!side) return;
    fwrite(kept->data, 1, kept->size, side);
    fclose(side);
}

static void read_side(HANDLE file, bytes *kept) {
    WCHAR path[4096];
    char chunk[4096];
    size_t size;
    if (!side_path(file, path, 4096)) return;
    FILE *side = _wfopen(path, L"rb");
    if (!side) return;
    while ((size = fread(chunk, 1, sizeof chunk, side))) append(kept, chunk, size);
    fclose(side);
}

static HANDLE open_for_side(const WCHAR *path) {
    return CreateFileW(path, GENERIC_READ, 7, NULL, OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, NULL);
}

size_t emulation_side(HANDLE file, char **data) {
    bytes kept = {0};
    read_side(file, &kept);
    *data = kept.data;
    return kept.size;
}

void emulation_set_side(HANDLE file, const char *data, size_t size) {
    bytes kept = {(char *)data, size, size};
    write_side(file, &kept);
}

void emulation_copy(const WCHAR *from, const WCHAR *to) {
    HANDLE source = open_for_side(from), target = open_for_side(to);
    bytes kept = {0};
    if (source != INVALID_HANDLE_VALUE && target != INVALID_HANDLE_VALUE) {
        read_side(source, &kept);
        write_side(target, &kept);
    }
    free(kept.data);
    CloseHandle(source);
    CloseHandle(target);
}

/* -- BackupWrite -------------------------------------------------------------------------------------- */

typedef struct {
    WCHAR path[4096];
    BOOL security;
    UINT64 total;
    sha1_state sha;
    FILE_BASIC_INFO basic;
    bytes header;      /* of the current stream, as far as it has come: header, name, sparse offset */
    size_t wanted;     /* how many bytes of it there must be */
    UINT64 left;       /* bytes of data still to come */
    DWORD id;
    BOOL in_data;
    text streams;
    BYTE head[HEAD_SIZE];
    size_t head_size;
    bytes kept;        /* for the side file */
} writer;

static writer *new_writer(HANDLE file, BOOL security) {
    writer *w = calloc(1, sizeof *w);
    final_path(file, w->path, 4096);
    GetFileInformationByHandleEx(file, FileBasicInfo, &w->basic, sizeof w->basic);
    w->security = security;
    w->wanted = HEADER_SIZE;
    w->streams.room = 64;
    w->streams.data = malloc(64);
    w->streams.data[0] = 0;
    sha1_start(&w->sha);
    return w;
}

static UINT32 u32(const char *data) { return *(const UINT32 *)data; }

static void end_stream(writer *w) {
    add_hex(&w->streams, w->head, w->head_size);
    add_format(&w->streams, "\"}");
    w->head_size = 0;
    w->header.size = 0;
    w->wanted = HEADER_SIZE;
    w->in_data = FALSE;
}

static void begin_data(writer *w, HANDLE file) {
    const char *header = w->header.data;
    UINT32 name_size = u32(header + 16);
    WCHAR name[512] = {0};
    memcpy(name, header + HEADER_SIZE, name_size < 1022 ? name_size : 1022);
    w->id = u32(header);
    w->left = *(const UINT64 *)(header + 8);
    add_format(&w->streams, "%s{\"id\": %u, \"attr\": %u, \"size\": %I64u", w->streams.size ? ", " : "", w->id,
               u32(header + 4), w->left);
    add_string(&w->streams, "name", name);
    add_format(&w->streams, ", \"head\": \"");
    w->in_data = TRUE;
    if (w->id == BACKUP_DATA) SetFilePointer(file, 0, NULL, FILE_BEGIN);
    if (w->id == BACKUP_SPARSE_BLOCK) {
        LARGE_INTEGER offset;
        memcpy(&offset, header + HEADER_SIZE + name_size, 8);
        SetFilePointerEx(file, offset, NULL, FILE_BEGIN);
        w->left -= 8;
        if (!w->left) SetEndOfFile(file);
    } else if (w->id != BACKUP_DATA && (w->id != BACKUP_SECURITY_DATA || w->security)) {
        append(&w->kept, header, w->header.size);
    }
    if (!w->left) end_stream(w);
}

static BOOL take(writer *w, HANDLE file, const char *data, size_t size) {
    while (size) {
        if (!w->in_data) {
            size_t part = w->wanted - w->header.size;
            if (part > size) part = size;
            append(&w->header, data, part);
            data += part, size -= part;
            if (w->header.size == HEADER_SIZE) {
                if (u32(w->header.data) > 10 || !u32(w->header.data)) return FALSE;
                w->wanted += u32(w->header.data + 16) + (u32(w->header.data) == BACKUP_SPARSE_BLOCK ? 8 : 0);
            }
            if (w->header.size == w->wanted) begin_data(w, file);
            continue;
        }
        size_t part = w->left < size ? (size_t)w->left : size;
        if (w->head_size < HEAD_SIZE) {
            size_t more = HEAD_SIZE - w->head_size;
            if (more > part) more = part;
            memcpy(w->head + w->head_size, data, more);
            w->head_size += more;
        }
        if (w->id == BACKUP_DATA || w->id == BACKUP_SPARSE_BLOCK) {
            DWORD written;
            if (!WriteFile(file, data, (DWORD)part, &written, NULL)) return FALSE;
        } else if (w->id != BACKUP_SECURITY_DATA || w->security) {
            append(&w->kept, data, part);
        }
        data += part, size -= part, w->left -= part;
        if (!w->left) end_stream(w);
    }
    return TRUE;
}

static void finish_writer(writer *w, HANDLE file) {
    text line;
    BYTE digest[20];
    BOOL complete = !w->in_data && !w->header.size;
    if (w->in_data) end_stream(w);
    SetFileInformationByHandle(file, FileBasicInfo, &w->basic, sizeof w->basic);
    write_side(file, &w->kept);
    sha1_finish(&w->sha, digest);
    begin_call(&line, "BackupWrite");
    add_string(&line, "path", w->path);
    add_format(&line, ", \"security\": %s", w->security ? "true" : "false");
    add_number(&line, "bytes", (INT64)w->total);
    add_format(&line, ", \"sha1\": \"");
    add_hex(&line, digest, 20);
    add_format(&line, "\", \"streams\": [%s], \"complete\": %s", w->streams.data,
               complete ? "true" : "false");
    finish_line(&line);
    free(w->header.data);
    free(w->streams.data);
    free(w->kept.data);
    free(w);
}

static BOOL fail(const char *function) {
    HRESULT result = scripted(function, S_OK);
    if (SUCCEEDED(result)) return FALSE;
    SetLastError(HRESULT_CODE(result));
    return TRUE;
}

BOOL WINAPI emulation_write(HANDLE file, BYTE *data, DWORD size, DWORD *written, BOOL abort, BOOL security,
                            void **context) {
    writer *w = *context;
    if (abort) {
        if (w) finish_writer(w, file);
        *context = NULL;
        return TRUE;
    }
    if (fail("BackupWrite")) return FALSE;
    if (!w) *context = w = new_writer(file, security);
    sha1_add(&w->sha, data, size);
    w->total += size;
    if (!take(w, file, (const char *)data, size)) {
        SetLastError(ERROR_INVALID_DATA);
        return FALSE;
    }
    *written = size;
    return TRUE;
}

/* -- BackupRead --------------------------------------------------------------------------------------- */

typedef struct {
    WCHAR path[4096];
    BOOL security;
    UINT64 total;
    bytes before, after; /* what stands before the data, its header included, and behind it */
    size_t before_at, after_at;
    UINT64 left;
} reader;

/* Side streams go where Windows has them: alternate streams behind the data, all others before. */
static void place_side(reader *r, const bytes *kept) {
    for (size_t at = 0; at + HEADER_SIZE <= kept->size;) {
        const char *header = kept->data + at;
        size_t size = HEADER_SIZE + u32(header + 16) + (size_t)*(const UINT64 *)(header + 8);
        if (u32(header) == BACKUP_ALTERNATE_DATA) append(&r->after, header, size);
        else if (u32(header) != BACKUP_SECURITY_DATA || r->security) append(&r->before, header, size);
        at += size;
    }
}

static reader *new_reader(HANDLE file, BOOL security) {
    reader *r = calloc(1, sizeof *r);
    FILE_STANDARD_INFO info = {0};
    bytes kept = {0};
    BOOL reparse = FALSE;
    final_path(file, r->path, 4096);
    r->security = security;
    read_side(file, &kept);
    place_side(r, &kept);
    for (size_t at = 0; at + HEADER_SIZE <= r->before.size;) {
        const char *header = r->before.data + at;
        reparse |= u32(header) == BACKUP_REPARSE_DATA;
        at += HEADER_SIZE + u32(header + 16) + (size_t)*(const UINT64 *)(header + 8);
    }
    free(kept.data);
    GetFileInformationByHandleEx(file, FileStandardInfo, &info, sizeof info);
    if (!info.Directory && !reparse) {
        char header[HEADER_SIZE] = {BACKUP_DATA};
        r->left = info.EndOfFile.QuadPart;
        memcpy(header + 8, &r->left, 8);
        append(&r->before, header, HEADER_SIZE);
        SetFilePointer(file, 0, NULL, FILE_BEGIN);
    }
    return r;
}

static size_t give(bytes *from, size_t *at, BYTE *to, size_t room) {
    size_t size = from->size - *at < room ? from->size - *at : room;
    memcpy(to, from->data + *at, size);
    *at += size;
    return size;
}

static void finish_reader(reader *r) {
    text line;
    begin_call(&line, "BackupRead");
    add_string(&line, "path", r->path);
    add_format(&line, ", \"security\": %s", r->security ? "true" : "false");
    add_number(&line, "bytes", (INT64)r->total);
    finish_line(&line);
    free(r->before.data);
    free(r->after.data);
    free(r);
}

BOOL WINAPI emulation_read(HANDLE file, BYTE *data, DWORD size, DWORD *count, BOOL abort, BOOL security,
                           void **context) {
    reader *r = *context;
    if (abort) {
        if (r) finish_reader(r);
        *context = NULL;
        return TRUE;
    }
    if (fail("BackupRead")) return FALSE;
    if (!r) *context = r = new_reader(file, security);
    size_t given = 0;
    if (r->before.size) given += give(&r->before, &r->before_at, data, size);
    if (r->left && given < size) {
        DWORD read = 0;
        if (!ReadFile(file, data + given, (DWORD)(r->left < size - given ? r->left : size - given), &read, NULL))
            return FALSE;
        given += read;
        r->left -= read;
    }
    if (!r->left && r->after.size && given < size) given += give(&r->after, &r->after_at, data + given, size - given);
    r->total += given;
    *count = (DWORD)given;
    return TRUE;
}

INT64 emulated_partition;

/* -- in place of kernel32's --------------------------------------------------------------------------- */

static void replace(const char *name, void *function) {
    BYTE jump[12] = {0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0}; /* mov rax, function; jmp rax */
    void *target = (void *)GetProcAddress(GetModuleHandleW(L"kernel32.dll"), name);
    DWORD before;
    memcpy(jump + 2, &function, 8);
    if (!target || !VirtualProtect(target, sizeof jump, PAGE_EXECUTE_READWRITE, &before)) return;
    memcpy(target, jump, sizeof jump);
    VirtualProtect(target, sizeof jump, before, &before);
    FlushInstructionCache(GetCurrentProcess(), target, sizeof jump);
}

/*
 * DeviceIoControl, so that a "volume" (the folder that GetLayerMountPath names) can be asked for its partition's
 * size and extended; all other codes go to the kernel as they came.
 */
typedef struct {
    UINT64 status, information;
} io_status;

typedef LONG(WINAPI *control_call)(HANDLE, HANDLE, void *, void *, io_status *, ULONG, void *, ULONG, void *, ULONG);

static BOOL WINAPI emulated_control(HANDLE file, DWORD code, void *in, DWORD in_size, void *out, DWORD out_size,
                                    DWORD *returned, OVERLAPPED *overlapped) {
    static const DWORD length_info = 0x7405c, extend_volume = 0x900f0;
    HMODULE ntdll = GetModuleHandleW(L"ntdll.dll");
    if (code == length_info || code == extend_volume) {
        text line;
        HRESULT result = scripted("DeviceIoControl", S_OK);
        if (SUCCEEDED(result) && code == length_info && out_size >= 8) {
            memcpy(out, &emulated_partition, 8);
            *returned = 8;
        }
        begin_call(&line, "DeviceIoControl");
        add_number(&line, "code", code);
        if (code == extend_volume && in_size >= 8) add_number(&line, "sectors", *(INT64 *)in);
        finish_call(&line, result);
        SetLastError(HRESULT_CODE(result));
        return SUCCEEDED(result);
    }
    const char *name = code >> 16 == FILE_DEVICE_FILE_SYSTEM ? "NtFsControlFile" : "NtDeviceIoControlFile";
    control_call call = (control_call)(void *)GetProcAddress(ntdll, name);
    ULONG(WINAPI *dos_error)(LONG) = (ULONG(WINAPI *)(LONG))(void *)GetProcAddress(ntdll, "RtlNtStatusToDosError");
    io_status status = {0};
    (void)overlapped;
    LONG result = call(file, NULL, NULL, NULL, &status, code, in, in_size, out, out_size);
    if (returned) *returned = (DWORD)status.information;
    if (result >= 0) return TRUE;
    SetLastError(dos_error(result));
    return FALSE;
}

void emulation_start(void) {
    replace("DeviceIoControl", (void *)emulated_control);
    replace("BackupRead", (void *)emulation_read);
    replace("BackupWrite", (void *)emulation_write);
}
