/*
 * A stand-in for virtdisk.dll, whose attaching ends the process under Wine: it logs and succeeds.  A "disk" is
 * any file; the handle is that of the file.  See vmcompute.c for the environment.
 */

#include "standin.h"

#pragma GCC diagnostic ignored "-Wattributes" /* the header declares them as imports */

#define EXPORT __declspec(dllexport) DWORD WINAPI

static DWORD finish(text *line, DWORD code) {
    add_number(line, "code", code);
    finish_line(line);
    return code;
}

EXPORT OpenVirtualDisk(VIRTUAL_STORAGE_TYPE *type, const WCHAR *path, VIRTUAL_DISK_ACCESS_MASK access,
                             OPEN_VIRTUAL_DISK_FLAG flags, OPEN_VIRTUAL_DISK_PARAMETERS *parameters, HANDLE *handle) {
    text line;
    DWORD code = HRESULT_CODE(scripted("OpenVirtualDisk", S_OK));
    if (!code) {
        *handle = CreateFileW(path, GENERIC_READ, 7, NULL, OPEN_EXISTING, 0, NULL);
        if (*handle == INVALID_HANDLE_VALUE) code = GetLastError();
    }
    begin_call(&line, "OpenVirtualDisk");
    add_string(&line, "path", path);
    add_number(&line, "device", type->DeviceId);
    add_number(&line, "access", access);
    add_number(&line, "flags", flags);
    add_number(&line, "version", parameters ? parameters->Version : 0);
    return finish(&line, code);
}

EXPORT AttachVirtualDisk(HANDLE disk, PSECURITY_DESCRIPTOR security, ATTACH_VIRTUAL_DISK_FLAG flags,
                               ULONG provider, ATTACH_VIRTUAL_DISK_PARAMETERS *parameters, OVERLAPPED *overlapped) {
    text line;
    (void)disk, (void)security, (void)provider, (void)parameters, (void)overlapped;
    begin_call(&line, "AttachVirtualDisk");
    add_number(&line, "flags", flags);
    return finish(&line, HRESULT_CODE(scripted("AttachVirtualDisk", S_OK)));
}

EXPORT DetachVirtualDisk(HANDLE disk, DETACH_VIRTUAL_DISK_FLAG flags, ULONG provider) {
    text line;
    (void)disk;
    begin_call(&line, "DetachVirtualDisk");
    add_number(&line, "flags", flags);
    add_number(&line, "provider", provider);
    return finish(&line, HRESULT_CODE(scripted("DetachVirtualDisk", S_OK)));
}
