"""The same layers, faster: what stands in for ``Backbone.run_layer`` under the same loop and the same plan."""
