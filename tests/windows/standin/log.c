/* Log lines, scripted failures, folders. */
#include "standin.h"

#include <stdarg.h>

void add_format(text *line, const char *format, ...) {
    va_list arguments;
    for (;;) {
        size_t left = line->room - line->size;
        va_start(arguments, format);
        int needed = vsnprintf(line->data + line->size, left, format, arguments);
        va_end(arguments);
        if (needed >= 0 && (size_t)needed < left) {
            line->size += needed;
            return;
        }
        line->room = line->room * 2 + (needed > 0 ? needed : 64);
        line->data = realloc(line->data, line->room);
    }
}

const char *separator(text *line) {
    char last = line->size ? line->data[line->size - 1] : '{';
    return last == '{' || last == '[' ? "" : ", ";
}

void add_number(text *line, const char *name, INT64 value) {
    add_format(line, "%s\"%s\": %I64d", separator(line), name, value);
}

void add_string(text *line, const char *name, const WCHAR *value) {
    add_format(line, "%s\"%s\": \"", separator(line), name);
    for (const WCHAR *c = value ? value : L""; *c; c++) {
        if (*c == '"' || *c == '\\') add_format(line, "\\%c", (char)*c);
        else if (*c < 0x20 || *c > 0x7e) add_format(line, "\\u%04x", *c);
        else add_format(line, "%c", (char)*c);
    }
    add_format(line, "\"");
}

void begin_call(text *line, const char *function) {
    line->room = 256;
    line->size = 0;
    line->data = malloc(line->room);
    add_format(line, "{\"fn\": \"%s\"", function);
}

void finish_line(text *line) {
    WCHAR path[4096];
    add_format(line, "}\n");
    if (environment(L"STANDIN_LOG", path, 4096)) {
        HANDLE file = CreateFileW(path, FILE_APPEND_DATA, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL, OPEN_ALWAYS, 0, NULL);
        DWORD written;
        if (file != INVALID_HANDLE_VALUE) {
            SetFilePointer(file, 0, NULL, FILE_END);
            WriteFile(file, line->data, (DWORD)line->size, &written, NULL);
            CloseHandle(file);
        }
    }
    free(line->data);
}

HRESULT finish_call(text *line, HRESULT result) {
    add_format(line, ", \"hr\": \"0x%08lx\"", (unsigned long)result);
    finish_line(line);
    return result;
}

DWORD environment(const WCHAR *name, WCHAR *value, DWORD room) {
    DWORD size = GetEnvironmentVariableW(name, value, room);
    return size < room ? size : 0;
}

void join_path(WCHAR *out, size_t room, const WCHAR *folder, const WCHAR *name) {
    _snwprintf(out, room, L"%ls\\%ls", folder, name);
    out[room - 1] = 0;
}

void walk_folder(const WCHAR *folder, void (*visit)(const WCHAR *, WIN32_FIND_DATAW *, void *), void *context) {
    WCHAR pattern[4096];
    WIN32_FIND_DATAW found;
    join_path(pattern, 4096, folder, L"*");
    HANDLE search = FindFirstFileW(pattern, &found);
    if (search == INVALID_HANDLE_VALUE) return;
    do {
        if (wcscmp(found.cFileName, L".") && wcscmp(found.cFileName, L"..")) visit(folder, &found, context);
    } while (FindNextFileW(search, &found));
    FindClose(search);
}

#define MAX_COUNTED 64

static struct {
    char name[48];
    int count;
} counted[MAX_COUNTED];

static int count_call(const char *function) {
    for (int i = 0; i < MAX_COUNTED; i++) {
        if (!counted[i].name[0]) strncpy(counted[i].name, function, sizeof counted[i].name - 1);
        if (!strcmp(counted[i].name, function)) return ++counted[i].count;
    }
    return 0;
}

/* Begin to count calls anew. */
__declspec(dllexport) void WINAPI StandInReset(void) { memset(counted, 0, sizeof counted); }

HRESULT scripted(const char *function, HRESULT result) {
    WCHAR wide[4096];
    char script[4096];
    int call = count_call(function);
    if (!environment(L"STANDIN_FAIL", wide, 4096)) return result;
    WideCharToMultiByte(CP_UTF8, 0, wide, -1, script, sizeof script, NULL, NULL);
    for (char *rule = strtok(script, " "); rule; rule = strtok(NULL, " ")) {
        char *value = strchr(rule, '=');
        if (!value) continue;
        *value++ = 0;
        char *number = strchr(rule, '#');
        if (number) *number++ = 0;
        if (!strcmp(rule, function) && (!number || atoi(number) == call)) return (HRESULT)strtoul(value, NULL, 0);
    }
    return result;
}
