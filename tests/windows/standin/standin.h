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

/* Put the emulation in place of BackupRead and BackupWrite. */
void emulation_start(void);

/* A file was copied: its emulated streams go along. */
void emulation_copy(const WCHAR *from, const WCHAR *to);

#endif
