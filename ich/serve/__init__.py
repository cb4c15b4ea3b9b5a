"""The service beside a PACS: receives studies, reads them, answers, and shows what it did.

``store`` is the database that all processes share, and ``settings`` the file that configures them. ``inbox``
keeps objects on the disk. ``receive`` takes them in, ``reading`` runs the models, ``sending`` answers,
``web`` shows, and ``upkeep`` watches and deletes. ``supervisor`` starts a process for each, and starts it
again when it ends.
"""
