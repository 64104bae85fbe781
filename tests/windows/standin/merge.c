/*
 * An emulation of what HCS does with layers' folders, where STANDIN_SIDE is set: ImportLayer makes real files of
 * the transport format, and placeholders of all that the parent has besides; ExportLayer makes the transport format
 * of what is not a placeholder, and deletions of what the parent has and the layer has not.
 */
#include "standin.h"

static const char PLACEHOLDER[] = "PLACEHOLDER!";
static const WCHAR DIRECTORY_SUFFIX[] = L".$wcidirs$";

typedef struct {
    const WCHAR *source, *target; /* two trees that are walked together */
    FILE *tombstones;             /* of an export */
    size_t skip;                  /* how much of a path below the target a deletion leaves out */
} pair;

static HANDLE open_path(const WCHAR *path, DWORD access, DWORD disposition) {
    return CreateFileW(path, access, 7, NULL, disposition, FILE_FLAG_BACKUP_SEMANTICS, NULL);
}

static BOOL is_placeholder(const WCHAR *path) {
    char *kept;
    HANDLE file = open_path(path, GENERIC_READ, OPEN_EXISTING);
    if (file == INVALID_HANDLE_VALUE) return FALSE;
    size_t size = emulation_side(file, &kept);
    BOOL found = size == sizeof PLACEHOLDER && !memcmp(kept, PLACEHOLDER, size);
    free(kept);
    CloseHandle(file);
    return found;
}

static BOOL exists(const WCHAR *path) { return GetFileAttributesW(path) != INVALID_FILE_ATTRIBUTES; }

static BOOL has_suffix(const WCHAR *name, const WCHAR *suffix) {
    size_t size = wcslen(name), end = wcslen(suffix);
    return size >= end && !_wcsicmp(name + size - end, suffix);
}

/* -- import ------------------------------------------------------------------------------------------- */

static void place_one(const WCHAR *folder, WIN32_FIND_DATAW *found, void *context) {
    pair *trees = context;
    WCHAR from[4096], to[4096];
    join_path(from, 4096, folder, found->cFileName);
    join_path(to, 4096, trees->target, found->cFileName);
    BOOL folder_here = found->dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY;
    if (folder_here) CreateDirectoryW(to, NULL);
    HANDLE file = open_path(to, GENERIC_READ | GENERIC_WRITE, folder_here ? OPEN_EXISTING : CREATE_NEW);
    if (file != INVALID_HANDLE_VALUE) {
        emulation_set_side(file, PLACEHOLDER, sizeof PLACEHOLDER);
        CloseHandle(file);
    }
    if (folder_here) {
        pair below = {from, to, NULL, 0};
        walk_folder(from, place_one, &below);
    }
}

/* Give the file or directory at *to* what the transport file *from* says. */
static void restore_one(const WCHAR *from, const WCHAR *to, BOOL folder) {
    HANDLE source = open_path(from, GENERIC_READ, OPEN_EXISTING);
    if (source == INVALID_HANDLE_VALUE) return;
    if (folder) CreateDirectoryW(to, NULL);
    else DeleteFileW(to);
    HANDLE target = open_path(to, GENERIC_READ | GENERIC_WRITE, folder ? OPEN_EXISTING : CREATE_ALWAYS);
    FILE_BASIC_INFO info = {0};
    DWORD size = 0, written;
    BYTE chunk[65536];
    void *stream = NULL;
    GetFileInformationByHandleEx(source, FileBasicInfo, &info, sizeof info);
    emulation_set_side(target, "", 0);
    ReadFile(source, &info.FileAttributes, 4, &size, NULL);
    while (ReadFile(source, chunk, sizeof chunk, &size, NULL) && size)
        emulation_write(target, chunk, size, &written, FALSE, TRUE, &stream);
    emulation_write(target, NULL, 0, NULL, TRUE, TRUE, &stream);
    SetFileInformationByHandle(target, FileBasicInfo, &info, sizeof info);
    CloseHandle(target);
    CloseHandle(source);
}

static void import_one(const WCHAR *folder, WIN32_FIND_DATAW *found, void *context) {
    pair *trees = context;
    WCHAR from[4096], to[4096], beside[4096];
    if (has_suffix(found->cFileName, DIRECTORY_SUFFIX)) return;
    join_path(from, 4096, folder, found->cFileName);
    join_path(to, 4096, trees->target, found->cFileName);
    if (!(found->dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY)) {
        restore_one(from, to, FALSE);
        return;
    }
    _snwprintf(beside, 4096, L"%ls%ls", from, DIRECTORY_SUFFIX);
    restore_one(beside, to, TRUE);
    pair below = {from, to, NULL, 0};
    walk_folder(from, import_one, &below);
}

static void import_root(const WCHAR *folder, WIN32_FIND_DATAW *found, void *context) {
    if (!_wcsicmp(found->cFileName, L"Files")) import_one(folder, found, context);
    else if (!has_suffix(found->cFileName, DIRECTORY_SUFFIX) && _wcsicmp(found->cFileName, L"tombstones.txt"))
        copy_entry(folder, found, (void *)((pair *)context)->target);
}

/* Remove what the folder's list of deletions names. */
static void apply_tombstones(const WCHAR *files, const WCHAR *folder) {
    WCHAR path[4096], name[4096];
    char line[16384];
    join_path(path, 4096, folder, L"tombstones.txt");
    FILE *list = _wfopen(path, L"rb");
    if (!list) return;
    while (fgets(line, sizeof line, list)) {
        line[strcspn(line, "\r\n")] = 0;
        if (line[0] != '\\' || !MultiByteToWideChar(CP_UTF8, 0, line + 1, -1, name, 4096)) continue;
        join_path(path, 4096, files, name);
        remove_entry(path);
    }
    fclose(list);
}

void merge_import(const WCHAR *id, const WCHAR *folder, const WCHAR *parent) {
    WCHAR from[4096], to[4096];
    CreateDirectoryW(id, NULL);
    join_path(to, 4096, id, L"Files");
    CreateDirectoryW(to, NULL);
    if (parent) {
        join_path(from, 4096, parent, L"Files");
        pair trees = {from, to, NULL, 0};
        walk_folder(from, place_one, &trees);
    }
    pair trees = {folder, id, NULL, 0};
    walk_folder(folder, import_root, &trees);
    join_path(to, 4096, id, L"Files");
    apply_tombstones(to, folder);
}

/* -- export ------------------------------------------------------------------------------------------- */

static void save_one(const WCHAR *from, const WCHAR *to) {
    HANDLE source = open_path(from, GENERIC_READ, OPEN_EXISTING);
    HANDLE target = open_path(to, GENERIC_READ | GENERIC_WRITE, CREATE_ALWAYS);
    FILE_BASIC_INFO info = {0};
    DWORD size = 0, written;
    BYTE chunk[65536];
    void *stream = NULL;
    GetFileInformationByHandleEx(source, FileBasicInfo, &info, sizeof info);
    WriteFile(target, &info.FileAttributes, 4, &written, NULL);
    while (emulation_read(source, chunk, sizeof chunk, &size, FALSE, TRUE, &stream) && size)
        WriteFile(target, chunk, size, &written, NULL);
    emulation_read(source, NULL, 0, NULL, TRUE, TRUE, &stream);
    info.FileAttributes = FILE_ATTRIBUTE_NORMAL;
    SetFileInformationByHandle(target, FileBasicInfo, &info, sizeof info);
    CloseHandle(target);
    CloseHandle(source);
}

static void export_one(const WCHAR *folder, WIN32_FIND_DATAW *found, void *context) {
    pair *trees = context;
    WCHAR from[4096], to[4096], beside[4096];
    join_path(from, 4096, folder, found->cFileName);
    join_path(to, 4096, trees->target, found->cFileName);
    BOOL placeholder = is_placeholder(from);
    if (!(found->dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY)) {
        if (!placeholder) save_one(from, to);
        return;
    }
    if (!placeholder) {
        CreateDirectoryW(to, NULL);
        _snwprintf(beside, 4096, L"%ls%ls", to, DIRECTORY_SUFFIX);
        save_one(from, beside);
    }
    pair below = {from, to, NULL, 0};
    walk_folder(from, export_one, &below);
}

static void export_root(const WCHAR *folder, WIN32_FIND_DATAW *found, void *context) {
    if (!_wcsicmp(found->cFileName, L"Files")) export_one(folder, found, context);
    else if (!_wcsicmp(found->cFileName, L"Hives") || !_wcsicmp(found->cFileName, L"UtilityVM"))
        copy_entry(folder, found, (void *)((pair *)context)->target);
}

/* A path of the parent: written as a deletion if the layer does not have it. */
static void compare_one(const WCHAR *folder, WIN32_FIND_DATAW *found, void *context) {
    pair *trees = context;
    WCHAR from[4096], to[4096];
    char line[16384];
    join_path(from, 4096, folder, found->cFileName);
    join_path(to, 4096, trees->target, found->cFileName);
    if (!exists(to)) {
        WideCharToMultiByte(CP_UTF8, 0, to + trees->skip, -1, line, sizeof line, NULL, NULL);
        fprintf(trees->tombstones, "%s\n", line);
    } else if (found->dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) {
        pair below = {from, to, trees->tombstones, trees->skip};
        walk_folder(from, compare_one, &below);
    }
}

void merge_export(const WCHAR *id, const WCHAR *folder, const WCHAR *parent) {
    WCHAR from[4096], to[4096], list[4096];
    CreateDirectoryW(folder, NULL);
    pair trees = {id, folder, NULL, 0};
    walk_folder(id, export_root, &trees);
    join_path(list, 4096, folder, L"tombstones.txt");
    FILE *tombstones = _wfopen(list, L"wb");
    if (!tombstones) return;
    fputs("\xef\xbb\xbfVersion 1.0\n", tombstones);
    join_path(to, 4096, id, L"Files");
    if (parent && exists(to)) {
        join_path(from, 4096, parent, L"Files");
        pair compared = {from, to, tombstones, wcslen(to)};
        walk_folder(from, compare_one, &compared);
    }
    fclose(tombstones);
}
