/* What the stand-in's parts share: log lines, scripted failures, the emulation's entry points. */
#ifndef STANDIN_H
#define STANDIN_H

#include <windows.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

/* A log line that grows. */
typedef struct {
    char *data;
    size_t size, room;
} text;

void add_format(text *line, const char *format, ...);
void add_number(text *line, const char *name, INT64 value);
void add_string(text *line, const char *name, const WCHAR *value);
const char *separator(text *line);
void begin_call(text *line, const char *function);
HRESULT finish_call(text *line, HRESULT result);
void finish_line(text *line);

/* The variable's value, or 0 where it is not set or empty. */
DWORD environment(const WCHAR *name, WCHAR *value, DWORD room);

/* What the call of that name returns: what STANDIN_FAIL says, else *result*. */
HRESULT scripted(const char *function, HRESULT result);

/* Paths and folders. */
void join_path(WCHAR *out, size_t room, const WCHAR *folder, const WCHAR *name);
void walk_folder(const WCHAR *folder, void (*visit)(const WCHAR *, WIN32_FIND_DATAW *, void *), void *context);
void remove_entry(const WCHAR *path);
void copy_entry(const WCHAR *folder, WIN32_FIND_DATAW *found, void *target);

/* BackupRead and BackupWrite as they are emulated, and what is kept beside a file. */
BOOL WINAPI emulation_read(HANDLE file, BYTE *data, DWORD size, DWORD *count, BOOL abort, BOOL security, void **context);
BOOL WINAPI emulation_write(HANDLE file, BYTE *data, DWORD size, DWORD *written, BOOL abort, BOOL security,
                            void **context);
size_t emulation_side(HANDLE file, char **data);
void emulation_set_side(HANDLE file, const char *data, size_t size);

/* The size of the partition that a "volume" has: what ExpandSandboxSize was last told. */
extern INT64 emulated_partition;

/* What HCS does with layers' folders; *parent* may be NULL. */
void merge_import(const WCHAR *id, const WCHAR *folder, const WCHAR *parent);
void merge_export(const WCHAR *id, const WCHAR *folder, const WCHAR *parent);

/* Put the emulation in place of BackupRead and BackupWrite. */
void emulation_start(void);

/* A file was copied: its emulated streams go along. */
void emulation_copy(const WCHAR *from, const WCHAR *to);

#endif
