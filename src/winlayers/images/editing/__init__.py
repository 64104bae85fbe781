"""Images made of other images: layers appended, merged or put on another base, configurations changed.

Nothing here changes an image; each verb makes a new one, whose unchanged layers keep their blobs.
"""
