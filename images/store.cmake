# References and documents, then the store over the registry client, the content store and a Snapshotter.
berth_library(berth_image_documents
  SOURCES reference.cc media.cc
  LINK berth_images_base)
berth_test(image_documents_test SOURCES reference_test.cc media_test.cc LINK berth_image_documents)
berth_library(berth_images
  SOURCES
    archive.cc
    archive_export.cc
    archive_import.cc
    pull_flights.cc
    store.cc
    store_collect.cc
    store_pull.cc
    store_table.cc
  LINK berth_registry berth_content berth_snapshots)
berth_test(image_store_test SOURCES store_test.cc archive_test.cc LINK berth_images)
berth_test(image_peer_test SOURCES store_peer_test.cc LINK berth_images LABELS root peer TIMEOUT 300)
